//! Sustained: a producer keeps a backlog while a worker settles, for as long as is asked for, with
//! the rate and the size of the table in each stretch; and the same while another session keeps an
//! old snapshot, so that no dead row can be removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outbox::Event;
use outbox::postgres::{PgOutbox, PgStorage};
use outbox_testkit::postgres::TestDatabase;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{Round, SIDES, Side, Window, alternate, tell};
use crate::server::{Bench, QUEUE, connect, draft, payload};
use crate::state::State;
use crate::workload::Noop;
use crate::{Error, bare};

/// What the producer keeps.
pub(crate) const BACKLOG: usize = 20_000;
/// Messages of one transaction of the producer.
pub(crate) const LOT: usize = 500;
const LONGEST_WINDOW: Duration = Duration::from_secs(10);
const LEAST_WINDOWS: u32 = 6;
const MINUTE: Duration = Duration::from_secs(60);
/// Windows before the snapshot is taken.
const UNDISTURBED: u32 = 2;

/// How long, and whether with an old snapshot.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    window: Duration,
    windows: u32,
    snapshot: bool,
}

impl Plan {
    pub(crate) fn new(seconds: u64, snapshot: bool) -> Self {
        let all = Duration::from_secs(seconds);
        let window = LONGEST_WINDOW.min(all / LEAST_WINDOWS);
        Self {
            window,
            windows: (all.as_secs_f64() / window.as_secs_f64()).round() as u32,
            snapshot,
        }
    }

    /// The windows that are compared with each other: of a minute if there are three, else one, as with a
    /// snapshot, before which there is no minute.
    fn stretch(&self) -> usize {
        let of_minute = (MINUTE.as_secs_f64() / self.window.as_secs_f64()).round() as usize;
        if !self.snapshot && self.windows as usize >= 3 * of_minute {
            of_minute
        } else {
            1
        }
    }

    /// The rate of the last stretch in that of the second: the first one is warming up.
    fn keeps(&self, rounds: &[Round]) -> Option<f64> {
        let windows = &rounds.last()?.windows;
        let stretch = self.stretch();
        let rate = |windows: &[Window]| windows.iter().map(|window| window.rate).sum::<f64>();
        let second = windows.get(stretch..2 * stretch)?;
        let last = windows.get(windows.len() - stretch..)?;
        Some(rate(last) / rate(second))
    }
}

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
    snapshot: bool,
) -> Result<(), Error> {
    let plan = Plan::new(arguments.seconds, snapshot);
    let (name, also) = if snapshot {
        let also =
            "; another session's REPEATABLE READ is open from after the second window to the end";
        ("snapshot", also)
    } else {
        ("sustained", "")
    };
    report.note(&format!(
        "{name}: {} s with a producer that keeps {BACKLOG} messages due; costs are of enqueue, claim and \
         settle{also}",
        arguments.seconds
    ));
    let run = async |side| round(bench, side, plan).await;
    let [ours, bare] = alternate(report, arguments.long_rounds(), SIDES, run).await?;
    let (our_rest, bare_rest) = (plan.keeps(&ours), plan.keeps(&bare));
    let more = json!({
        "seconds": arguments.seconds,
        "window_seconds": plan.window.as_secs_f64(),
        "compared_seconds": plan.window.as_secs_f64() * plan.stretch() as f64,
        "ours_keeps": our_rest,
        "bare_keeps": bare_rest,
    });
    tell(report, name, &ours, &bare, more);
    for (whose, rounds, rest) in [("ours", &ours, our_rest), ("bare", &bare, bare_rest)] {
        let Some(last) = rounds.last() else { continue };
        report.note(&format!(
            "  {name}, {whose}, windows of {:.1} s; the last {} has {:.2} of the rate of the second:",
            plan.window.as_secs_f64(),
            if plan.stretch() == 1 { "window" } else { "minute" },
            rest.unwrap_or_default()
        ));
        for window in &last.windows {
            report.note(&format!(
                "    {:>7.0}/s, table {:>6.1} MB, indexes {:>6.1} MB",
                window.rate,
                window.heap_bytes as f64 / 1e6,
                window.index_bytes as f64 / 1e6
            ));
        }
    }
    Ok(())
}

/// Works at full speed under a producer.
pub(crate) async fn round(bench: &Bench, side: Side, plan: Plan) -> Result<Round, Error> {
    let database = bench.filled(&State::due(BACKLOG)).await?;
    let settled = Arc::new(AtomicUsize::new(0));
    let (stop, stopped) = watch::channel(false);
    let producer = connect(&database).await?;
    let count = bench.meter.start(&database).await?;
    let producing = produce(producer, side, Arc::clone(&settled), stopped.clone());
    let producing = tokio::spawn(producing);
    let working = match side {
        Side::Ours => {
            let storage = PgStorage::connect(&database.url()).await?;
            tokio::spawn(work(storage, Arc::clone(&settled), stopped))
        }
        Side::Bare => {
            let connection = connect(&database).await?;
            tokio::spawn(work_bare(connection, Arc::clone(&settled), stopped))
        }
    };
    let started = Instant::now();
    let windows = watch(&database, &settled, plan).await;
    let rate = settled.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    // Both are gone only if they failed, which the next lines tell.
    let _ = stop.send(true);
    working.await??;
    producing.await??;
    let cost = count.finish(&database).await?;
    Ok(Round {
        rate,
        messages: settled.load(Ordering::Relaxed),
        cost: Some(cost),
        windows: windows?,
        ..Round::default()
    })
}

async fn watch(
    database: &TestDatabase,
    settled: &AtomicUsize,
    plan: Plan,
) -> Result<Vec<Window>, Error> {
    let mut windows = Vec::new();
    let mut snapshot = None;
    for number in 0..plan.windows {
        if plan.snapshot && number == UNDISTURBED {
            snapshot = Some(hold_snapshot(database).await?);
        }
        let (before, started) = (settled.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(plan.window).await;
        let done = settled.load(Ordering::Relaxed) - before;
        let rate = done as f64 / started.elapsed().as_secs_f64();
        let size = async |what| {
            let sql = format!("select pg_{what}_size('outbox.message')");
            database.count(&sql).await
        };
        windows.push(Window {
            rate,
            heap_bytes: size("relation").await?,
            index_bytes: size("indexes").await?,
        });
    }
    if let Some(snapshot) = snapshot {
        snapshot.close().await?;
    }
    Ok(windows)
}

/// The snapshot is as old as the first statement.
async fn hold_snapshot(database: &TestDatabase) -> Result<PgConnection, Error> {
    let mut connection = connect(database).await?;
    let sql = "begin isolation level repeatable read; select 1";
    sqlx::raw_sql(sql).execute(&mut connection).await?;
    Ok(connection)
}

/// Keeps [`BACKLOG`] messages due until it is told to stop. They are there when it begins; `settled` is
/// how many are gone since.
pub(crate) async fn produce(
    mut connection: PgConnection,
    side: Side,
    settled: Arc<AtomicUsize>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Error> {
    let outbox = PgOutbox::new();
    let payloads = vec![payload(); LOT];
    let mut enqueued = BACKLOG;
    while !*stopped.borrow() {
        if enqueued >= settled.load(Ordering::Relaxed) + BACKLOG {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        match side {
            Side::Ours => {
                let drafts = (0..LOT).map(|_| draft());
                outbox.enqueue_many(&mut connection, drafts).await?;
            }
            Side::Bare => {
                bare::insert_many(&mut connection, &payloads).await?;
            }
        }
        enqueued += LOT;
    }
    connection.close().await?;
    Ok(())
}

async fn work(
    storage: PgStorage,
    settled: Arc<AtomicUsize>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Error> {
    let worker = outbox::tokio::worker(storage)
        .register::<Noop>()
        .observe(move |event| {
            if let Event::Settled { .. } = event {
                settled.fetch_add(1, Ordering::Relaxed);
            }
        });
    let until = async move {
        // An error says that nobody can stop it any more, which stops it as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    worker.run_until(until).await?;
    Ok(())
}

async fn work_bare(
    mut connection: PgConnection,
    settled: Arc<AtomicUsize>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Error> {
    while !*stopped.borrow() {
        let done = bare::batch(&mut connection, QUEUE, bare::BATCH, bare::Settle::ById).await?;
        settled.fetch_add(done, Ordering::Relaxed);
        if done == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    connection.close().await?;
    Ok(())
}
