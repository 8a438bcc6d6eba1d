//! Few: a worker that runs 4 or 16 handlers of 1 ms at once, next to as many threads that do
//! nothing but that, and to the thousand in a second that each slot could run at best.

use std::thread;
use std::time::{Duration, Instant};

use outbox::{BoxFuture, Context, Definition, Handler, Outcome, Requirements};
use serde_json::json;

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
            "{name}: {messages} messages whose handlers block a thread for 1 ms, {slots} at once; \
             bare: {slots} threads and no database; ideal: {ideal}/s"
        ));
        let state = State::due(messages);
        let run = async |side| match side {
            Side::Ours => {
                ours::drain(bench, &state, messages, |worker| {
                    worker.concurrency(slots).register::<Short>()
                })
                .await
            }
            Side::Bare => tokio::task::spawn_blocking(move || sleepers(slots, messages)).await?,
        };
        let [ours, bare] = alternate(report, arguments.rounds(), SIDES, run).await?;
        let of_ideal = rates(&ours).median / ideal as f64;
        let more = json!({ "ideal": ideal, "of_ideal": of_ideal });
        tell(report, name, &ours, &bare, more);
        report.note(&format!("  {name}, of the ideal {ideal}/s: {of_ideal:.2}"));
    }
    Ok(())
}

/// The same work by itself.
fn sleepers(slots: usize, messages: usize) -> Result<Round, Error> {
    let started = Instant::now();
    let threads: Vec<_> = (0..slots)
        .map(|slot| {
            let runs = messages / slots + usize::from(slot < messages % slots);
            thread::spawn(move || (0..runs).for_each(|_| thread::sleep(HANDLER)))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")?;
    }
    Ok(Round {
        rate: messages as f64 / started.elapsed().as_secs_f64(),
        messages,
        ..Round::default()
    })
}

/// Blocks a thread, because the timer of the runtime counts in milliseconds and wakes after two.
struct Short;

impl Handler for Short {
    fn definition() -> Definition {
        Noop::definition()
    }

    fn requires(_: &mut Requirements) {}

    fn call(_: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async {
            match tokio::task::spawn_blocking(|| thread::sleep(HANDLER)).await {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Dead {
                    error: error.into(),
                },
            }
        })
    }
}
