//! Memory: what the process of a default worker has resident while it settles millions of messages
//! that a producer in another process enqueues.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outbox::Event;
use outbox::postgres::PgStorage;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::arguments::Arguments;
use crate::child::Child;
use crate::measure::Spread;
use crate::report::Report;
use crate::round::Side;
use crate::server::{Bench, connect};
use crate::state::State;
use crate::workload::Noop;
use crate::workload::sustained::{BACKLOG, LOT, produce};
use crate::{Error, report};

/// The argument that makes this program the worker; the server's address and the number of messages
/// follow.
pub(crate) const HIDDEN: &str = "--memory-process";
const MESSAGES: usize = 5_000_000;
/// One after each so many'th part of the messages.
const SAMPLES: usize = 50;
/// Without a message for so long the worker is stuck, which is an error.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(arguments.scaled(MESSAGES));
    report.note(&format!(
        "memory: resident memory of the process of a default worker, with a producer that keeps {BACKLOG} \
         messages due, until {messages} are settled"
    ));
    let course = course(bench, messages).await?;
    let samples = &course.samples;
    let spread = Spread::of(samples);
    let tenth = samples.len().div_ceil(10);
    let first = Spread::of(&samples[..tenth]);
    let last = Spread::of(&samples[samples.len() - tenth..]);
    let ratio = last.median / first.median;
    report.note(&format!(
        "  memory: {} MiB, {} samples; {} messages settled, {:.0}/s",
        spread.line(1),
        samples.len(),
        course.settled,
        course.rate
    ));
    report.note(&format!(
        "  memory, first tenth: {} MiB; last tenth: {} MiB; last against first: {ratio:.3}",
        first.line(1),
        last.line(1)
    ));
    report.result(json!({
        "workload": "memory",
        "unit": "MiB",
        "messages": course.settled,
        "messages_per_second": course.rate,
        "ours": spread.median,
        "ours_spread": spread.json(),
        "ours_samples": samples,
        "first_tenth": first.json(),
        "last_tenth": last.json(),
        "last_against_first": ratio,
        // Nobody has promised a memory to compare it with.
        "bare": null,
        "ratio": null,
    }));
    Ok(())
}

/// How a run went.
struct Course {
    /// In MiB.
    samples: Vec<f64>,
    settled: usize,
    rate: f64,
}

async fn course(bench: &Bench, messages: usize) -> Result<Course, Error> {
    let database = bench.filled(&State::due(BACKLOG)).await?;
    let producer = connect(&database).await?;
    let worker = Child::start(&[HIDDEN, &database.url(), &messages.to_string()])?;
    let settled = Arc::new(AtomicUsize::new(0));
    let (stop, stopped) = watch::channel(false);
    let producing = produce(producer, Side::Ours, Arc::clone(&settled), stopped);
    let producing = tokio::spawn(producing);
    // Its lines are waited for on a thread that may block.
    let followed = tokio::task::spawn_blocking(move || follow(worker, messages, &settled)).await?;
    // It is gone only if it failed, and then that is why the worker was without messages.
    let _ = stop.send(true);
    producing.await??;
    followed
}

/// Reads what the worker process says.
fn follow(mut worker: Child, messages: usize, settled: &AtomicUsize) -> Result<Course, Error> {
    let started = Instant::now();
    let mut samples = Vec::with_capacity(SAMPLES);
    let done = loop {
        let line = worker.line()?;
        let Some((number, kibibytes)) = line.split_once(' ') else {
            break line.parse()?;
        };
        let number = number.parse()?;
        settled.store(number, Ordering::Relaxed);
        if number * SAMPLES >= messages * (samples.len() + 1) {
            samples.push(kibibytes.parse::<f64>()? / 1024.0);
        }
    };
    if done < messages {
        return Err(format!("{done} of {messages} are done").into());
    }
    Ok(Course {
        samples,
        settled: done,
        rate: done as f64 / started.elapsed().as_secs_f64(),
    })
}

/// What the worker process does: settles so many messages at least, and says every now and then how
/// many it has settled and how many KiB it has resident; at last, how many messages were done.
pub(crate) async fn child(url: &str, messages: &str) -> Result<(), Error> {
    let messages: usize = messages.parse()?;
    // The producer follows this as well, and every sample needs one.
    let step = (messages / SAMPLES).clamp(1, LOT);
    let storage = PgStorage::connect(url).await?;
    let settled = AtomicUsize::new(0);
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = outbox::tokio::worker(storage)
        .register::<Noop>()
        .observe(move |event| {
            if let Event::Settled { .. } = event {
                let number = settled.fetch_add(1, Ordering::Relaxed) + 1;
                if number.is_multiple_of(step) || number == messages {
                    // Nobody listens any more once there were enough.
                    let _ = tell.send(number);
                }
            }
        });
    let (end, ended) = oneshot::channel::<()>();
    let telling = tokio::spawn(async move {
        // However this ends, the worker does then.
        let _end = end;
        loop {
            let next = tokio::time::timeout(PATIENCE, told.recv()).await;
            let Some(number) = next.map_err(|_| "no message was settled for ten minutes")? else {
                return Ok(());
            };
            report::to_parent(&format!("{number} {}", resident_kibibytes()?));
            if number >= messages {
                return Ok::<_, Error>(());
            }
        }
    });
    let outcome = worker
        .run_until(async move {
            // Nothing is sent: the other end is dropped.
            let _ = ended.await;
        })
        .await?;
    telling.await??;
    report::to_parent(&outcome.done.to_string());
    Ok(())
}

/// Of this process, as Linux tells.
fn resident_kibibytes() -> Result<u64, Error> {
    let file = "/proc/self/status";
    let status = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = resident.and_then(|resident| resident.split_whitespace().next());
    Ok(number.ok_or("/proc/self/status has no VmRSS")?.parse()?)
}
