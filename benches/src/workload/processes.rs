//! Processes: four worker processes on one queue, next to four bare connections and to one process.
//! The program starts itself again for each.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outbox::Event;
use outbox::postgres::PgStorage;
use serde_json::json;

use crate::arguments::Arguments;
use crate::child::Child;
use crate::report::Report;
use crate::round::{Round, alternate, ratios, tell};
use crate::server::Bench;
use crate::state::State;
use crate::workload::Noop;
use crate::{Error, bare, report};

/// The argument that makes this program a worker process; the server's address follows.
pub(crate) const HIDDEN: &str = "--worker-process";
const MANY: usize = 4;

#[derive(Clone, Copy)]
enum Who {
    Processes(usize),
    Bare,
}

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(300_000);
    report.note(&format!(
        "processes: {messages} no-op messages, one queue; {MANY} processes with a default worker each, next \
         to {MANY} bare connections and to one such process; starting and connecting are not counted"
    ));
    let state = State::due(messages);
    let shape = bare::Shape {
        connections: MANY,
        ..bare::PLAIN
    };
    let sides = [
        ("ours", Who::Processes(MANY)),
        ("bare", Who::Bare),
        ("one process", Who::Processes(1)),
    ];
    let run = async |who| match who {
        Who::Processes(processes) => round(bench, &state, messages, processes).await,
        Who::Bare => bare::round(bench, &state, messages, shape).await,
    };
    let [ours, bare, one] = alternate(report, arguments.rounds(), sides, run).await?;
    let against_one = ratios(&ours, &one);
    let more = json!({ "processes": MANY, "against_one": against_one.json() });
    tell(report, "processes", &ours, &bare, more);
    let line = against_one.line(2);
    report.note(&format!("  processes, {MANY} against one: {line}"));
    Ok(())
}

async fn round(
    bench: &Bench,
    state: &State,
    messages: usize,
    processes: usize,
) -> Result<Round, Error> {
    let database = bench.filled(state).await?;
    let url = database.url();
    let mut children = Vec::new();
    for _ in 0..processes {
        children.push(Child::start(&[HIDDEN, &url])?);
    }
    // Their answers are waited for on a thread that may block.
    let ready = |mut children: Vec<Child>| {
        lines(&mut children)?;
        Ok::<_, Error>(children)
    };
    let mut children = tokio::task::spawn_blocking(move || ready(children)).await??;
    let count = bench.meter.start(&database).await?;
    let answers = tokio::task::spawn_blocking(move || {
        children.iter_mut().try_for_each(Child::go)?;
        lines(&mut children)
    });
    let (mut done, mut slowest) = (0, 0.0);
    for answer in answers.await?? {
        let (settled, seconds) = answer
            .split_once(' ')
            .ok_or("a process answered nonsense")?;
        done += settled.parse::<usize>()?;
        slowest = f64::max(slowest, seconds.parse()?);
    }
    let cost = count.finish(&database).await?;
    if done != messages {
        return Err(format!("{done} of {messages} are done").into());
    }
    Ok(Round {
        rate: messages as f64 / slowest,
        messages,
        cost: Some(cost),
        ..Round::default()
    })
}

/// What a worker process does: says that it is ready, waits for a line, works until nothing is left,
/// and answers how many messages it settled and how many seconds that took.
pub(crate) async fn child(url: &str) -> Result<(), Error> {
    let storage = PgStorage::connect(url).await?;
    let last = Arc::new(Mutex::new(None));
    let observed = Arc::clone(&last);
    let worker = outbox::tokio::worker(storage)
        .register::<Noop>()
        .observe(move |event| {
            if let Event::Settled { .. } = event {
                let mut last = observed.lock().unwrap_or_else(PoisonError::into_inner);
                *last = Some(Instant::now());
            }
        })
        .prepare()?;
    report::to_parent("ready");
    let go = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    if go.await??.is_empty() {
        return Err("the process that started this one has ended".into());
    }
    let started = Instant::now();
    let outcome = worker.run_until_idle(Duration::ZERO).await?;
    let last = *last.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = (last.unwrap_or(started) - started).as_secs_f64();
    report::to_parent(&format!("{} {seconds}", outcome.done));
    Ok(())
}

/// The next line of each.
fn lines(children: &mut [Child]) -> Result<Vec<String>, Error> {
    children.iter_mut().map(Child::line).collect()
}
