//! How a leg measures itself.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is how a leg answers"
)]

use std::future::Future;
use std::io::BufRead as _;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::protocol::{Description, Drained, Enqueued, Said, Timed};

/// Any error ends the leg.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A worker at work. It may end only with an error: the leg ends it.
pub type Work = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// What every message carries, 95 to 100 bytes of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Payload {
    /// Which message it is.
    pub id: usize,
    /// Filler.
    pub text: String,
}

impl Payload {
    /// That of the message with this number.
    #[must_use]
    pub fn new(id: usize) -> Self {
        Self {
            id,
            text: "x".repeat(75),
        }
    }
}

/// A job queue as a leg runs it. A value is a producer; the handlers call [`handled`] and no more.
#[expect(
    async_fn_in_trait,
    reason = "the leg awaits these itself and never spawns them"
)]
pub trait Peer: Sized {
    /// What it is and how it is measured.
    fn description() -> Description;

    /// Creates its tables in an empty database.
    async fn migrate(url: &str) -> Result<(), Error>;

    /// Connects and registers; what is returned works once it is polled.
    async fn worker(url: &str, setting: &str) -> Result<Work, Error>;

    /// Connects a producer.
    async fn producer(url: &str, setting: &str) -> Result<Self, Error>;

    /// Enqueues one message, which is committed when this returns.
    async fn one(&mut self, payload: Payload) -> Result<(), Error>;

    /// Enqueues many at once, committed when this returns.
    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error>;
}

/// Messages of one call when a database is filled.
const FILL: usize = 10_000;
/// How often a leg tells how far it is.
const TELL: Duration = Duration::from_millis(20);
/// Between two timed messages, so that each finds everybody asleep.
const PAUSE: Duration = Duration::from_millis(20);
/// A worker that polls seldom is timed this long at most.
const TIMED: Duration = Duration::from_secs(20);
/// Until a worker has started all it starts.
const STARTED: Duration = Duration::from_secs(1);

static HANDLED: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds from `BEGUN` to the last handler.
static LAST: AtomicU64 = AtomicU64::new(0);
static BEGUN: OnceLock<Instant> = OnceLock::new();
static STARTS: OnceLock<UnboundedSender<Instant>> = OnceLock::new();

/// The whole of every handler: counts it and notes the time.
pub fn handled() {
    let now = Instant::now();
    if let Some(starts) = STARTS.get() {
        // Nobody listens once the last message is through.
        let _ = starts.send(now);
    }
    if let Some(begun) = BEGUN.get() {
        let nanoseconds = now.saturating_duration_since(*begun).as_nanos();
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        LAST.fetch_max(nanoseconds, Ordering::Relaxed);
    }
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// The `main` of a leg. Its arguments are one of `describe`, `fill URL MESSAGES`,
/// `drain URL SETTING`, `enqueue URL SETTING ONE MANY`, `latency URL SETTING MESSAGES`.
pub fn run<P: Peer>() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let ended = tokio::runtime::Runtime::new()
        .map_err(Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(obey::<P>(&given));
            // A worker that is still at work does not keep the process.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{given:?}: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn obey<P: Peer>(given: &[&str]) -> Result<(), Error> {
    match given {
        ["describe"] => say(&P::description()),
        ["fill", url, messages] => fill::<P>(url, messages.parse()?).await,
        ["drain", url, setting] => drain::<P>(url, setting).await,
        ["enqueue", url, setting, one, many] => {
            say(&enqueue::<P>(url, setting, one.parse()?, many.parse()?).await?)
        }
        ["latency", url, setting, messages] => {
            say(&latency::<P>(url, setting, messages.parse()?).await?)
        }
        _ => Err("a leg is started by the driver: see benches/peers/README.md".into()),
    }
}

fn say(what: &impl Serialize) -> Result<(), Error> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}

async fn fill<P: Peer>(url: &str, messages: usize) -> Result<(), Error> {
    P::migrate(url).await?;
    let setting = P::description().settings.into_iter().next();
    let setting = setting.ok_or("a leg has at least one setting")?;
    let mut producer = P::producer(url, &setting.name).await?;
    let mut from = 0;
    while from < messages {
        let to = messages.min(from + FILL);
        producer.many(payloads(from, to)).await?;
        from = to;
    }
    Ok(())
}

fn payloads(from: usize, to: usize) -> Vec<Payload> {
    (from..to).map(Payload::new).collect()
}

async fn drain<P: Peer>(url: &str, setting: &str) -> Result<(), Error> {
    let work = P::worker(url, setting).await?;
    let mut orders = orders();
    say(&Said::Ready)?;
    if orders.recv().await.as_deref() != Some("go") {
        return Err("the driver has ended".into());
    }
    let before = usage()?;
    BEGUN.get_or_init(Instant::now);
    let mut work = tokio::spawn(work);
    let mut told = 0;
    loop {
        tokio::select! {
            // `stop`, or the driver has ended.
            _ = orders.recv() => break,
            ended = &mut work => {
                ended??;
                return Err("the worker ended by itself".into());
            }
            () = tokio::time::sleep(TELL) => {
                let handled = HANDLED.load(Ordering::Relaxed);
                if handled > told {
                    told = handled;
                    say(&Said::Handled(handled))?;
                }
            }
        }
    }
    let after = usage()?;
    say(&Said::Drained(Drained {
        handled: HANDLED.load(Ordering::Relaxed),
        seconds: Duration::from_nanos(LAST.load(Ordering::Relaxed)).as_secs_f64(),
        user_seconds: seconds(after.user_time()) - seconds(before.user_time()),
        system_seconds: seconds(after.system_time()) - seconds(before.system_time()),
    }))
}

/// The lines of standard input.
fn orders() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn usage() -> Result<Usage, Error> {
    Ok(getrusage(UsageWho::RUSAGE_SELF)?)
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

async fn enqueue<P: Peer>(
    url: &str,
    setting: &str,
    one: usize,
    many: usize,
) -> Result<Enqueued, Error> {
    P::migrate(url).await?;
    let mut producer = P::producer(url, setting).await?;
    // The first statement of a connection is prepared; that is connecting, and not counted.
    producer.one(Payload::new(0)).await?;
    producer.many(payloads(0, 1)).await?;
    let each: Vec<Payload> = payloads(0, one);
    let started = Instant::now();
    for payload in each {
        producer.one(payload).await?;
    }
    let one = one as f64 / started.elapsed().as_secs_f64();
    let all = payloads(0, many);
    let started = Instant::now();
    producer.many(all).await?;
    let many = many as f64 / started.elapsed().as_secs_f64();
    Ok(Enqueued { one, many })
}

async fn latency<P: Peer>(url: &str, setting: &str, messages: usize) -> Result<Timed, Error> {
    P::migrate(url).await?;
    let (starts, mut started) = unbounded_channel();
    STARTS.get_or_init(|| starts);
    let mut work = tokio::spawn(P::worker(url, setting).await?);
    let mut producer = P::producer(url, setting).await?;
    let measured = async {
        tokio::time::sleep(STARTED).await;
        // The first messages find cold connections.
        for id in 0..5 {
            time(&mut producer, id, &mut started).await?;
        }
        let begun = Instant::now();
        let mut milliseconds = Vec::with_capacity(messages);
        while milliseconds.len() < messages && begun.elapsed() < TIMED {
            let id = milliseconds.len();
            milliseconds.push(time(&mut producer, id, &mut started).await?);
        }
        Ok::<_, Error>(milliseconds)
    };
    tokio::select! {
        milliseconds = measured => Ok(Timed { milliseconds: milliseconds? }),
        ended = &mut work => {
            ended??;
            Err("the worker ended by itself".into())
        }
    }
}

/// Milliseconds from the commit to the handler; zero where the handler was faster than the reply to
/// the commit.
async fn time<P: Peer>(
    producer: &mut P,
    id: usize,
    started: &mut UnboundedReceiver<Instant>,
) -> Result<f64, Error> {
    producer.one(Payload::new(id)).await?;
    let committed = Instant::now();
    let next = tokio::time::timeout(Duration::from_secs(30), started.recv()).await?;
    let start = next.ok_or("nobody handles messages")?;
    tokio::time::sleep(PAUSE).await;
    Ok(start.saturating_duration_since(committed).as_secs_f64() * 1_000.0)
}
