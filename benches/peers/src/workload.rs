//! What the legs are told to do. Rounds are outermost, so that what disturbs the machine disturbs all.

use std::str::FromStr as _;
use std::time::{Duration, Instant};

use leg::{Drained, Enqueued, Error, Setting, Timed};
use outbox_testkit::postgres::TestDatabase;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use crate::arguments::Arguments;
use crate::legs::{Drain, Leg};
use crate::server::Bench;
use crate::table::{Column, Table};

/// Worker processes of the second workload.
const PROCESSES: usize = 4;
/// Messages that are enqueued one by one, and in one call.
const ONE: usize = 2_000;
const MANY: usize = 10_000;
/// Messages that are timed in a round.
const TIMED: usize = 200;
/// Until what was handled is settled as well.
const SETTLED: Duration = Duration::from_secs(60);

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// A full queue, one process.
    Drain,
    /// The same, four processes.
    Processes,
    /// One by one, and many in one call.
    Enqueue,
    /// Commit to start of the handler, on an idle worker.
    Latency,
}

impl Workload {
    pub(crate) const ALL: [Self; 4] = [Self::Drain, Self::Processes, Self::Enqueue, Self::Latency];

    /// That of this name on the command line.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|workload| workload.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Processes => "processes",
            Self::Enqueue => "enqueue",
            Self::Latency => "latency",
        }
    }

    const fn measures(self, setting: &Setting) -> bool {
        match self {
            Self::Drain => setting.drain > 0,
            Self::Processes => setting.processes,
            Self::Enqueue => setting.enqueue,
            Self::Latency => setting.latency,
        }
    }

    /// Runs every leg and setting once in each round. What fails is told and left out of the table:
    /// one peer's failure is not the end of the others.
    pub(crate) async fn run(
        self,
        bench: &Bench,
        arguments: &Arguments,
        legs: &[Leg],
        table: &mut Table,
    ) -> Result<(), Error> {
        for round in 1..=arguments.rounds {
            for leg in legs {
                for setting in &leg.description.settings {
                    if !self.measures(setting) {
                        continue;
                    }
                    let title = format!("{} {round}: {}, {}", self.name(), leg.name, setting.name);
                    match self.round(bench, arguments, leg, setting).await {
                        Ok(figures) => {
                            table.note(&title, &figures);
                            for (column, figure) in figures {
                                table.add(leg, setting, column, figure);
                            }
                        }
                        Err(error) => table.failed(&title, &*error),
                    }
                }
            }
        }
        Ok(())
    }

    async fn round(
        self,
        bench: &Bench,
        arguments: &Arguments,
        leg: &Leg,
        setting: &Setting,
    ) -> Result<Vec<(Column, f64)>, Error> {
        match self {
            Self::Drain => {
                let messages = arguments.messages.min(setting.drain);
                let sum = drain(bench, leg, setting, messages, 1).await?;
                let each = 1e6 / messages as f64;
                Ok(vec![
                    (Column::Drain, messages as f64 / sum.seconds),
                    (Column::User, sum.user_seconds * each),
                    (Column::System, sum.system_seconds * each),
                    (Column::Twice, twice(&sum, messages)),
                ])
            }
            Self::Processes => {
                let messages = arguments.messages.min(setting.drain);
                let sum = drain(bench, leg, setting, messages, PROCESSES).await?;
                Ok(vec![
                    (Column::Processes, messages as f64 / sum.seconds),
                    (Column::Twice, twice(&sum, messages)),
                ])
            }
            Self::Enqueue => {
                let database = bench.empty().await?;
                let (one, many) = (ONE.to_string(), MANY.to_string());
                let said = leg
                    .ask(&["enqueue", &database.url(), &setting.name, &one, &many])
                    .await?;
                let Enqueued { one, many } = serde_json::from_value(said)?;
                Ok(vec![(Column::One, one), (Column::Many, many)])
            }
            Self::Latency => {
                let database = bench.empty().await?;
                let said = leg
                    .ask(&[
                        "latency",
                        &database.url(),
                        &setting.name,
                        &TIMED.to_string(),
                    ])
                    .await?;
                let Timed { mut milliseconds } = serde_json::from_value(said)?;
                milliseconds.sort_by(f64::total_cmp);
                Ok(vec![
                    (Column::P50, percentile(&milliseconds, 50.0)?),
                    (Column::P99, percentile(&milliseconds, 99.0)?),
                ])
            }
        }
    }
}

/// Handlers that ran beyond one for each message.
fn twice(sum: &Drained, messages: usize) -> f64 {
    sum.handled as f64 - messages as f64
}

/// Lets some processes drain a full queue, until all is handled and settled, and sums up: the time is
/// that of the slowest.
async fn drain(
    bench: &Bench,
    leg: &Leg,
    setting: &Setting,
    messages: usize,
    processes: usize,
) -> Result<Drained, Error> {
    let database = bench.filled(leg, messages).await?;
    let url = database.url();
    let mut drains = Vec::new();
    for _ in 0..processes {
        drains.push(leg.start(&url, &setting.name).await?);
    }
    for drain in &mut drains {
        drain.go().await?;
    }
    let mut handled = vec![0; drains.len()];
    while handled.iter().sum::<u64>() < messages as u64 {
        let (index, so_far) = next(&mut drains).await?;
        handled[index] = so_far;
    }
    until_settled(&database, leg).await?;
    let mut sum = Drained {
        handled: 0,
        seconds: 0.0,
        user_seconds: 0.0,
        system_seconds: 0.0,
    };
    for drain in drains {
        let drained = drain.stop().await?;
        sum.handled += drained.handled;
        sum.seconds = sum.seconds.max(drained.seconds);
        sum.user_seconds += drained.user_seconds;
        sum.system_seconds += drained.system_seconds;
    }
    Ok(sum)
}

/// The next of some drains that is further than it was, and how far.
async fn next(drains: &mut [Drain<'_>]) -> Result<(usize, u64), Error> {
    let each = drains.iter_mut().map(|drain| Box::pin(drain.handled()));
    let (handled, index, _) = futures_util::future::select_all(each).await;
    Ok((index, handled?))
}

/// A handler that ran is only half of it. The planner knows nothing yet of the rows that were just
/// written: with a nested loop over them one peer's view took minutes.
async fn until_settled(database: &TestDatabase, leg: &Leg) -> Result<(), Error> {
    let options = PgConnectOptions::from_str(&database.url())?;
    let options = options.options([("enable_nestloop", "off"), ("statement_timeout", "30s")]);
    let mut connection = options.connect().await?;
    let begun = Instant::now();
    loop {
        let left = AssertSqlSafe(leg.description.left.clone());
        let left: i64 = sqlx::query_scalar(left).fetch_one(&mut connection).await?;
        if left == 0 {
            return Ok(());
        }
        if begun.elapsed() > SETTLED {
            return Err(format!("{left} messages are handled and not settled").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The nearest rank of sorted values.
fn percentile(sorted: &[f64], percent: f64) -> Result<f64, Error> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(rank.saturating_sub(1)).copied();
    Ok(value.ok_or("nothing was timed")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(percentile(&sorted, 50.0).expect("values"), 2.0);
        assert_eq!(percentile(&sorted, 99.0).expect("values"), 4.0);
        assert!(percentile(&[], 50.0).is_err());
    }

    #[test]
    fn every_workload_has_a_name_of_its_own() {
        for workload in Workload::ALL {
            assert_eq!(Workload::named(workload.name()), Some(workload));
        }
    }
}
