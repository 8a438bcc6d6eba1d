//! Loaded: from the return of a commit to the start of the handler, while messages are written at
//! half the rate that a worker keeps up with; next to a hand-written listener at the same rate.

use std::time::{Duration, Instant};

use outbox::Draft;
use outbox::postgres::PgOutbox;
use outbox_testkit::postgres::TestDatabase;
use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::Side;
use crate::server::{Bench, KIND, QUEUE, connect};
use crate::workload::latency::{CHANNEL, Start, beside_worker, compare, next, numbered, since};
use crate::workload::sustained;
use crate::{Error, bare};

const LOAD: f64 = 0.5;
/// Between two transactions of the producer.
const TICK: Duration = Duration::from_millis(5);
const CAPACITY_SECONDS: u64 = 3;

/// What the producer writes.
#[derive(Clone, Copy)]
struct Flow {
    lots: u64,
    /// Messages of a transaction.
    lot: usize,
}

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let plan = sustained::Plan::new(CAPACITY_SECONDS, false);
    let capacity = sustained::round(bench, Side::Ours, plan).await?.rate;
    let lot = ((capacity * LOAD * TICK.as_secs_f64()) as usize).max(1);
    let messages = arguments.messages.unwrap_or(lot * 400);
    let flow = Flow {
        lots: messages.div_ceil(lot) as u64,
        lot,
    };
    report.note(&format!(
        "loaded: {lot} messages every {} ms, half of the {capacity:.0}/s that a worker keeps up with; from the \
         return of the commit to the start of the handler; bare: insert, notify, listen, claims of {}",
        TICK.as_millis(),
        bare::BATCH
    ));
    let run = async |side, database: &TestDatabase| match side {
        Side::Ours => with_worker(database, flow).await,
        Side::Bare => with_listener(database, flow).await,
    };
    compare(bench, arguments, report, "loaded", run).await
}

/// Milliseconds for each message.
async fn with_worker(database: &TestDatabase, flow: Flow) -> Result<Vec<f64>, Error> {
    let connection = connect(database).await?;
    let as_it_is = |worker| worker;
    beside_worker(database, as_it_is, async |started| {
        measure(connection, Side::Ours, flow, started).await
    })
    .await
}

async fn with_listener(database: &TestDatabase, flow: Flow) -> Result<Vec<f64>, Error> {
    let mut listener = PgListener::connect(&database.url()).await?;
    listener.listen(CHANNEL).await?;
    let claimer = connect(database).await?;
    let (starts, started) = unbounded_channel();
    let messages = usize::try_from(flow.lots)? * flow.lot;
    let listening = tokio::spawn(listen(listener, claimer, starts, messages));
    let connection = connect(database).await?;
    let measured = measure(connection, Side::Bare, flow, started).await;
    listening.await??;
    measured
}

/// Claims until nothing is left, then waits for the next notification.
async fn listen(
    mut listener: PgListener,
    mut claimer: PgConnection,
    starts: UnboundedSender<Start>,
    messages: usize,
) -> Result<(), Error> {
    let mut left = messages;
    while left > 0 {
        let token = Uuid::new_v4();
        let leased = bare::claim(&mut claimer, QUEUE, token, bare::BATCH).await?;
        if leased.is_empty() {
            listener.recv().await?;
            continue;
        }
        for message in &leased {
            // The measuring side is gone only if it failed.
            let _ = starts.send(Start::now(&message.payload));
        }
        let ids: Vec<i64> = leased.iter().map(|message| message.id).collect();
        bare::settle(&mut claimer, token, &ids, bare::Settle::ById).await?;
        left = left.saturating_sub(leased.len());
    }
    Ok(())
}

/// Writes at an even rate, and waits until every message was started.
async fn measure(
    mut connection: PgConnection,
    side: Side,
    flow: Flow,
    mut started: UnboundedReceiver<Start>,
) -> Result<Vec<f64>, Error> {
    let outbox = PgOutbox::new();
    let mut ticks = tokio::time::interval(TICK);
    // What is late is made up for: the load is what was said.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut committed = Vec::new();
    for number in 0..flow.lots {
        ticks.tick().await;
        let payloads = vec![numbered(number); flow.lot];
        let mut transaction = connection.begin().await?;
        match side {
            Side::Ours => {
                let drafts = payloads.into_iter();
                let drafts = drafts.map(|payload| Draft::bytes(QUEUE, KIND, payload));
                outbox.enqueue_many(&mut transaction, drafts).await?;
            }
            Side::Bare => {
                bare::insert_many(&mut transaction, &payloads).await?;
                bare::notify(&mut transaction, CHANNEL).await?;
            }
        }
        transaction.commit().await?;
        committed.push(Instant::now());
    }
    connection.close().await?;
    let mut milliseconds = Vec::new();
    for _ in 0..committed.len() * flow.lot {
        let start = next(&mut started).await?;
        let lot = committed.get(usize::try_from(start.number)?);
        let lot = lot.ok_or("a message was started that nobody wrote")?;
        milliseconds.push(since(*lot, start.at));
    }
    Ok(milliseconds)
}
