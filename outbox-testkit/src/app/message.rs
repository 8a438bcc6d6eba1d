//! One message that a test delivers to a handler by hand.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use outbox_core::{
    BoxFuture, Claimed, Context, Handler, Held, Lease, LeaseToken, MessageId, NewMessage, Outcome,
    Requirements,
};

use super::TestApp;
use crate::drop_after;

/// A message that a test delivers to one handler, as often as it likes. Each delivery has a lease
/// of its own and counts in its fence, as after the crash of a worker or the loss of a reply.
pub struct TestMessage<'a> {
    app: &'a TestApp,
    call: fn(Context) -> BoxFuture<'static, Outcome>,
    message: Claimed,
}

impl<'a> TestMessage<'a> {
    #[track_caller]
    pub(super) fn new<H: Handler>(app: &'a TestApp, id: MessageId, new: NewMessage) -> Self {
        let definition = H::definition();
        let known = definition.kinds.contains(&new.kind) && definition.queue == new.queue;
        assert!(
            known,
            "`{}` handles {:?} of queue {:?}, and not {:?} of queue {:?}",
            definition.name, definition.kinds, definition.queue, new.kind, new.queue
        );
        let mut requirements = Requirements::default();
        H::requires(&mut requirements);
        if let Some((_, name)) = requirements.iter().find(|(of, _)| !app.data.contains(*of)) {
            panic!(
                "`{}` asks for Data<{name}>: call .data(value) on the app",
                definition.name
            );
        }
        let token = LeaseToken::random();
        let (queue, kind) = ((*new.queue).into(), (*new.kind).into());
        let mut message = Claimed::new(Held { id, token }, queue, kind, new.payload);
        message.content_type = (*new.content_type).into();
        message.headers = new.headers;
        message.max_attempts = definition.max_attempts.unwrap_or(new.max_attempts);
        message.deliveries = 0;
        message.key = new.key;
        message.group = new.group;
        message.tag = new.tag;
        message.created_at = app.memory.now();
        Self {
            app,
            call: H::call,
            message,
        }
    }

    /// Its id, the same in every delivery.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.message.id
    }

    /// The next deliveries are of this attempt; the first one is, otherwise.
    #[must_use]
    pub const fn attempt(mut self, number: u16) -> Self {
        self.message.attempt = number;
        self
    }

    /// Delivers it, and returns what the handler decided.
    ///
    /// # Panics
    /// When the handler does.
    #[track_caller]
    pub fn run(&mut self) -> Outcome {
        let (run, _) = self.deliver();
        self.app.sim.block_on(run)
    }

    /// Delivers it twice, as when the first outcome could not be written.
    ///
    /// # Panics
    /// When the handler does.
    #[track_caller]
    pub fn run_twice(&mut self) -> [Outcome; 2] {
        [self.run(), self.run()]
    }

    /// Delivers it and drops the handler at an await, as a crash or a shutdown would: 0 before it
    /// begins, 1 at its first await, and so on. Returns what it decided, if it came to its end
    /// before that.
    ///
    /// # Panics
    /// When the handler does.
    #[track_caller]
    pub fn crash_at(&mut self, awaits: usize) -> Option<Outcome> {
        let (run, _) = self.deliver();
        self.app.sim.block_on(drop_after(awaits, run))
    }

    /// Delivers it and loses its lease at an await, counted as in [`crash_at`](Self::crash_at). As
    /// with a worker, the handler may still notice, and is dropped where it waits next. Returns
    /// what it decided, if it came to its end all the same; a worker does not write that.
    ///
    /// # Panics
    /// When the handler does.
    #[track_caller]
    pub fn lose_lease_at(&mut self, awaits: usize) -> Option<Outcome> {
        let (run, lease) = self.deliver();
        let mut left = awaits;
        self.app.sim.block_on(async {
            let mut run = pin!(run);
            std::future::poll_fn(|context| {
                if left == 0 {
                    lease.lose();
                }
                match run.as_mut().poll(context) {
                    Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                    Poll::Pending if left == 0 => Poll::Ready(None),
                    Poll::Pending => {
                        left -= 1;
                        if left == 0 {
                            // It is polled once more at once, and not when it wakes.
                            context.waker().wake_by_ref();
                        }
                        Poll::Pending
                    }
                }
            })
            .await
        })
    }

    fn deliver(&mut self) -> (BoxFuture<'static, Outcome>, Lease) {
        self.message.deliveries += 1;
        self.message.token = LeaseToken::random();
        let age = self
            .app
            .memory
            .now()
            .duration_since(self.message.created_at);
        self.message.age = age.unwrap_or_default();
        let lease = Lease::new(self.message.held(), self.message.deliveries);
        let context = Context::new(
            self.message.clone(),
            lease.clone(),
            Arc::new(self.app.data.clone()),
            Arc::new(self.app.sim.clone()),
        );
        ((self.call)(context), lease)
    }
}

impl fmt::Debug for TestMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestMessage").field(&self.message).finish()
    }
}
