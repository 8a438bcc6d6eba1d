//! Enqueue: one by one in a transaction each, with and without wake-ups, and many at once; next to
//! a bare insert of the same rows.

use std::time::Instant;

use outbox::Draft;
use outbox::postgres::{PgOutbox, WakeUps};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::arguments::Arguments;
use crate::measure::{Cost, Spread};
use crate::report::Report;
use crate::server::{Bench, connect, draft, payload};
use crate::{Error, bare};

const SINGLE: usize = 2_000;
const BULK: usize = 10_000;

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
enum Writer {
    One(WakeUps),
    BareOne,
    Many(WakeUps),
    BareMany,
}

/// Messages per second, and what they cost.
struct Round {
    rate: f64,
    cost: Cost,
}

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let single = arguments.messages.unwrap_or(SINGLE);
    report.note(&format!(
        "enqueue: {single} messages of 100 bytes one by one, each its own transaction (autocommit); \
         {BULK} in one transaction; nobody listens"
    ));
    let comparisons = [
        (
            "enqueue",
            Writer::One(WakeUps::InTransaction),
            Writer::BareOne,
            single,
        ),
        (
            "enqueue without wake-ups",
            Writer::One(WakeUps::Off),
            Writer::BareOne,
            single,
        ),
        (
            "enqueue_many",
            Writer::Many(WakeUps::InTransaction),
            Writer::BareMany,
            BULK,
        ),
        (
            "enqueue_many without wake-ups",
            Writer::Many(WakeUps::Off),
            Writer::BareMany,
            BULK,
        ),
    ];
    for (name, writer, bare, messages) in comparisons {
        let (mut our_rounds, mut bare_rounds) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            our_rounds.push(round(bench, writer, messages).await?);
            bare_rounds.push(round(bench, bare, messages).await?);
        }
        tell(report, name, messages, &our_rounds, &bare_rounds);
    }
    Ok(())
}

async fn round(bench: &Bench, writer: Writer, messages: usize) -> Result<Round, Error> {
    let database = bench.database().await?;
    let mut connection = connect(&database).await?;
    // The first statement of a connection is prepared; that is connecting, and not counted.
    write(&mut connection, writer, 1).await?;
    let count = bench.meter.start(&database).await?;
    let elapsed = write(&mut connection, writer, messages).await?;
    connection.close().await?;
    let cost = count.finish(&database).await?;
    let written = database
        .count("select count(*) from outbox.message")
        .await?;
    if usize::try_from(written)? != messages + 1 {
        return Err(format!("{written} messages were written, not {messages} and one").into());
    }
    Ok(Round {
        rate: messages as f64 / elapsed,
        cost,
    })
}

/// Writes, and returns the seconds it took.
async fn write(
    connection: &mut PgConnection,
    writer: Writer,
    messages: usize,
) -> Result<f64, Error> {
    let producer = |wake_ups| PgOutbox::new().wake_ups(wake_ups);
    match writer {
        Writer::One(wake_ups) => {
            let outbox = producer(wake_ups);
            let started = Instant::now();
            for _ in 0..messages {
                outbox.enqueue(connection, draft()).await?;
            }
            Ok(started.elapsed().as_secs_f64())
        }
        Writer::BareOne => {
            let started = Instant::now();
            for _ in 0..messages {
                bare::insert(connection, &payload()).await?;
            }
            Ok(started.elapsed().as_secs_f64())
        }
        Writer::Many(wake_ups) => {
            let outbox = producer(wake_ups);
            let drafts: Vec<Draft> = (0..messages).map(|_| draft()).collect();
            let started = Instant::now();
            let mut transaction = connection.begin().await?;
            outbox.enqueue_many(&mut transaction, drafts).await?;
            transaction.commit().await?;
            Ok(started.elapsed().as_secs_f64())
        }
        Writer::BareMany => {
            let payloads: Vec<Vec<u8>> = (0..messages).map(|_| payload()).collect();
            let started = Instant::now();
            let mut transaction = connection.begin().await?;
            bare::insert_many(&mut transaction, &payloads).await?;
            transaction.commit().await?;
            Ok(started.elapsed().as_secs_f64())
        }
    }
}

fn tell(report: &Report, name: &str, messages: usize, ours: &[Round], bare: &[Round]) {
    let rates = |rounds: &[Round]| {
        let rates: Vec<f64> = rounds.iter().map(|round| round.rate).collect();
        Spread::of(&rates)
    };
    let pairs: Vec<f64> = ours
        .iter()
        .zip(bare)
        .map(|(ours, bare)| ours.rate / bare.rate)
        .collect();
    let (our_rates, bare_rates, ratios) = (rates(ours), rates(bare), Spread::of(&pairs));
    report.note(&format!(
        "  {name}: ours {:.0}/s (min {:.0}, max {:.0})   bare {:.0}/s (min {:.0}, max {:.0})   \
         ratio {:.2} (min {:.2}, max {:.2})",
        our_rates.median,
        our_rates.min,
        our_rates.max,
        bare_rates.median,
        bare_rates.min,
        bare_rates.max,
        ratios.median,
        ratios.min,
        ratios.max,
    ));
    for (whose, rounds) in [("ours", ours), ("bare", bare)] {
        if let Some(last) = rounds.last() {
            report.note(&format!("    {whose}: {}", last.cost.line(messages)));
        }
    }
    let cost = |rounds: &[Round]| rounds.last().map(|round| round.cost.per_message(messages));
    report.result(json!({
        "workload": name,
        "unit": "messages/s",
        "messages": messages,
        "rounds": ours.len(),
        "ours": our_rates.median,
        "bare": bare_rates.median,
        "ratio": ratios.median,
        "ours_spread": our_rates.json(),
        "bare_spread": bare_rates.json(),
        "ratio_spread": ratios.json(),
        "ours_per_message": cost(ours),
        "bare_per_message": cost(bare),
    }));
}
