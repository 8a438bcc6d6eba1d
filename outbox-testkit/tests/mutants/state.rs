//! What a mutant stores, and what becomes of it without a claim or settle: enqueue, cancel, and
//! the hooks that move time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use outbox_core::{
    Cancel, ClaimRequest, Claimed, DeadReason, Due, Error, ErrorKind, Held, LeaseToken, MessageId,
    NewMessage, QueueLease,
};

use crate::table::Defect;

pub(crate) struct State {
    pub(crate) defect: Option<Defect>,
    pub(crate) now: SystemTime,
    pub(crate) last_id: i64,
    pub(crate) messages: BTreeMap<MessageId, Stored>,
    pub(crate) dead: Vec<Dead>,
    /// Keys whose messages have ended: only read by defects.
    pub(crate) stale_keys: BTreeSet<String>,
}

#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) new: NewMessage,
    pub(crate) created_at: SystemTime,
    pub(crate) due: SystemTime,
    pub(crate) attempts: u16,
    pub(crate) losses: u16,
    pub(crate) deliveries: u32,
    pub(crate) lease: Option<(LeaseToken, SystemTime)>,
    pub(crate) last_error: Option<String>,
    /// Who held it before: only read by defects.
    pub(crate) former: Former,
}

/// Tokens that a storage without a defect forgets, by what ended their lease.
#[derive(Clone, Copy, Default)]
pub(crate) struct Former {
    pub(crate) lost: Option<LeaseToken>,
    pub(crate) retried: Option<LeaseToken>,
    pub(crate) snoozed: Option<LeaseToken>,
    pub(crate) released: Option<LeaseToken>,
}

pub(crate) struct Dead {
    pub(crate) id: MessageId,
    pub(crate) message: Stored,
    pub(crate) reason: DeadReason,
}

impl State {
    pub(crate) fn new(defect: Option<Defect>) -> Self {
        Self {
            defect,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            last_id: match defect {
                Some(Defect::IdsStartAtZero) => -1,
                _ => 0,
            },
            messages: BTreeMap::new(),
            dead: Vec::new(),
            stale_keys: BTreeSet::new(),
        }
    }

    pub(crate) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    pub(crate) fn enqueue(
        &mut self,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Option<MessageId>>, Error> {
        if messages.is_empty() && self.has(Defect::AnEmptyEnqueueFails) {
            return Err(refused("enqueue"));
        }
        self.refuse_many(messages.len(), "enqueue")?;
        let before = self.messages.keys().next_back().copied();
        let mut written = Vec::new();
        let mut ended = false;
        for new in messages {
            let id = if ended || self.has_twin(&new, before) {
                ended = self.has(Defect::ADuplicateEndsItsBatch);
                None
            } else {
                Some(self.insert(new))
            };
            written.push(id);
        }
        Ok(written)
    }

    fn has_twin(&self, new: &NewMessage, before: Option<MessageId>) -> bool {
        let Some(key) = new
            .key
            .as_ref()
            .filter(|_| !self.has(Defect::KeysAreIgnored))
        else {
            return false;
        };
        let stored = self.messages.iter().filter(|(id, twin)| {
            let compared = !self.has(Defect::KeysOfACallAreNotCompared) || Some(**id) <= before;
            let taken = !self.has(Defect::HeldKeysAreFree) || twin.lease.is_none();
            compared && taken
        });
        let same = |twin: &Stored| {
            let queue = twin.new.queue == new.queue || self.has(Defect::KeysAreOfAllQueues);
            let ignores_case = self.has(Defect::KeysIgnoreCase);
            let like = |own: &String| ignores_case && own.eq_ignore_ascii_case(key);
            queue && (twin.new.key == new.key || twin.new.key.as_ref().is_some_and(like))
        };
        stored.into_iter().any(|(_, twin)| same(twin)) || self.stale_keys.contains(key)
    }

    fn insert(&mut self, mut new: NewMessage) -> MessageId {
        self.last_id += 1;
        if self.has(Defect::JsonIsRewritten) && new.payload.starts_with(b"{") {
            new.payload.retain(|byte| *byte != b' ');
        }
        if self.has(Defect::ContentTypesAreForgotten) {
            new.content_type = outbox_core::JSON.into();
        }
        if self.has(Defect::NamesAreShort) {
            let cut = |name: &String| name.chars().take(191).collect();
            new.key = new.key.as_ref().map(cut);
        }
        if self.has(Defect::MissingTagsAreEmpty) {
            new.tag.get_or_insert_default();
        }
        let due = match new.due {
            Due::After(delay) => self.now + self.cut(delay, Defect::NewDelaysHaveALimit),
            Due::At(instant) if self.has(Defect::InstantsAreIgnored) => instant.min(self.now),
            Due::At(instant) => instant,
            _ => self.now,
        };
        let id = MessageId(self.last_id);
        let message = Stored {
            new,
            created_at: self.now,
            due,
            attempts: 0,
            losses: 0,
            deliveries: 0,
            lease: None,
            last_error: None,
            former: Former::default(),
        };
        self.messages.insert(id, message);
        id
    }

    pub(crate) fn cancel(&mut self, id: MessageId) -> Cancel {
        let Some(message) = self.messages.get(&id) else {
            return match id.0 <= self.last_id && self.has(Defect::TheGoneAreCancelled) {
                true => Cancel::Cancelled,
                false => Cancel::NotFound,
            };
        };
        let protects = |end| end > self.now || self.has(Defect::ExpiredLeasesProtect);
        let held = message.lease.is_some_and(|(_, end)| protects(end));
        let failed = self.has(Defect::RetriesAreNotCancelled) && message.last_error.is_some();
        if (held && !self.has(Defect::HeldMessagesAreCancelled)) || failed {
            return Cancel::Leased;
        }
        if self.has(Defect::CancelledKeysStayTaken) {
            self.keep_key(id);
        }
        self.messages.remove(&id);
        Cancel::Cancelled
    }

    /// Takes the key of this message for ever.
    pub(crate) fn keep_key(&mut self, id: MessageId) {
        let message = self.messages.get(&id);
        let key = message.and_then(|message| message.new.key.clone());
        self.stale_keys.extend(key);
    }

    /// The delay, of fifty days at most if that is what is wrong.
    pub(crate) fn cut(&self, delay: Duration, limits: Defect) -> Duration {
        match self.has(limits) {
            true => delay.min(Duration::from_secs(50 * 24 * 3600)),
            false => delay,
        }
    }

    pub(crate) fn refuse_many(&self, count: usize, operation: &'static str) -> Result<(), Error> {
        match count > 999 && self.has(Defect::CallsHaveALimit) {
            true => Err(refused(operation)),
            false => Ok(()),
        }
    }

    pub(crate) fn bury(&mut self, id: MessageId, reason: DeadReason) {
        let Some(mut message) = self.messages.remove(&id) else {
            return;
        };
        message.lease = None;
        if self.has(Defect::TheDeadAreDeleted) {
            return;
        }
        if self.has(Defect::DeadPayloadsAreText) {
            let text = String::from_utf8_lossy(&message.new.payload);
            message.new.payload = text.into_owned().into_bytes();
        }
        self.dead.push(Dead {
            id,
            message,
            reason,
        });
    }

    pub(crate) fn expire_leases(&mut self) {
        let now = self.now;
        let leases = || self.messages.values().filter_map(|m| m.lease);
        let latest = leases().map(|(_, end)| end).max().unwrap_or(now);
        let left = latest.duration_since(now).unwrap_or_default();
        for (_, end) in self.messages.values_mut().filter_map(|m| m.lease.as_mut()) {
            *end -= left;
        }
    }

    pub(crate) fn make_due(&mut self) {
        let now = self.now;
        for message in self.messages.values_mut() {
            message.due = message.due.min(now);
        }
    }

    /// The place of a message's queue in the request; `None` if it is not served.
    pub(crate) fn rank(&self, message: &Stored, request: &ClaimRequest) -> Option<usize> {
        let served = |asked: &QueueLease| match self.has(Defect::QueuesIgnoreCase) {
            true => asked.queue.eq_ignore_ascii_case(&message.new.queue),
            false => *asked.queue == *message.new.queue,
        };
        request.queues.iter().position(served)
    }
}

impl Stored {
    pub(crate) fn is_held_by(&self, token: LeaseToken) -> bool {
        self.lease.is_some_and(|(holder, _)| holder == token)
    }

    pub(crate) fn claimed(&self, id: MessageId, token: LeaseToken, now: SystemTime) -> Claimed {
        let (queue, kind) = ((*self.new.queue).into(), (*self.new.kind).into());
        let payload = self.new.payload.clone();
        let mut claimed = Claimed::new(Held { id, token }, queue, kind, payload);
        claimed.content_type = (*self.new.content_type).into();
        claimed.headers = self.new.headers.clone();
        claimed.attempt = self.attempts;
        claimed.max_attempts = self.new.max_attempts;
        claimed.lease_losses = self.losses;
        claimed.deliveries = self.deliveries;
        claimed.key.clone_from(&self.new.key);
        claimed.group.clone_from(&self.new.group);
        claimed.tag.clone_from(&self.new.tag);
        claimed.created_at = self.created_at;
        claimed.age = now.duration_since(self.created_at).unwrap_or_default();
        claimed
    }
}

/// An error that repeating the call does not mend.
pub(crate) fn refused(operation: &'static str) -> Error {
    Error::new(ErrorKind::Storage, operation, "refused by a defect")
}
