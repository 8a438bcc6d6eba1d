//! Few: a worker that runs 4 or 16 handlers of 1 ms at once, next to as many tasks that do
//! nothing but that, and to the thousand in a second that each slot could run at best.

use std::time::{Duration, Instant};

use outbox::{BoxFuture, Context, Definition, Handler, Outcome, Requirements};
use serde_json::json;
use tokio::task::JoinSet;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{Round, SIDES, Side, alternate, rates, tell};
use crate::server::Bench;
use crate::state::State;
use crate::workload::Noop;
use crate::{Error, ours};

const HANDLER: Duration = Duration::from_millis(1);
const EACH_PER_SECOND: usize = 1_000;

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    for (name, slots) in [("few, 4 slots", 4), ("few, 16 slots", 16)] {
        let ideal = slots * EACH_PER_SECOND;
        // Two seconds.
        let messages = arguments.messages.unwrap_or(2 * ideal);
        report.note(&format!(
            "{name}: {messages} messages whose handlers wait 1 ms for the kernel, {slots} at once; \
             bare: {slots} tasks that do nothing else, and no database; ideal: {ideal}/s"
        ));
        let state = State::due(messages);
        let run = async |side| match side {
            Side::Ours => {
                ours::drain(bench, &state, messages, |worker| {
                    worker.concurrency(slots).register::<Short>()
                })
                .await
            }
            Side::Bare => waiters(slots, messages).await,
        };
        let [ours, bare] = alternate(report, arguments.rounds(), SIDES, run).await?;
        let of_ideal = rates(&ours).median / ideal as f64;
        let more = json!({ "ideal": ideal, "of_ideal": of_ideal });
        tell(report, name, &ours, &bare, more);
        report.note(&format!("  {name}, of the ideal {ideal}/s: {of_ideal:.2}"));
    }
    Ok(())
}

/// The same work by itself: a task for each slot.
async fn waiters(slots: usize, messages: usize) -> Result<Round, Error> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for slot in 0..slots {
        let runs = messages / slots + usize::from(slot < messages % slots);
        tasks.spawn(async move {
            for _ in 0..runs {
                wait().await?;
            }
            Ok::<_, std::io::Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(Round {
        rate: messages as f64 / started.elapsed().as_secs_f64(),
        messages,
        ..Round::default()
    })
}

/// Waits for the kernel, as a handler does that waits for an answer from somewhere: the timers of the
/// runtime count in milliseconds, and wake after two.
#[cfg(target_os = "linux")]
async fn wait() -> std::io::Result<()> {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe::Receiver;
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let once = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: 0,
            tv_nsec: HANDLER.subsec_nanos().into(),
        },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    // It is no pipe, and is waited for like one.
    Receiver::from_owned_fd_unchecked(timer)?.readable().await
}

/// Elsewhere a thread sleeps, which takes two switches of threads more.
#[cfg(not(target_os = "linux"))]
async fn wait() -> std::io::Result<()> {
    Ok(tokio::task::spawn_blocking(|| std::thread::sleep(HANDLER)).await?)
}

struct Short;

impl Handler for Short {
    fn definition() -> Definition {
        Noop::definition()
    }

    fn requires(_: &mut Requirements) {}

    fn call(_: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async {
            match wait().await {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Dead {
                    error: error.into(),
                },
            }
        })
    }
}
