//! The workloads on SQLite. No server counts what they cost, so there are rates and times alone.

mod drain;
mod enqueue;
mod latency;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::{Error, sqlite};

/// What can be measured on a SQLite file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnSqlite {
    Drain,
    Enqueue,
    Latency,
}

pub(crate) async fn run(
    which: OnSqlite,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    report.note(&sqlite::description().await?);
    match which {
        OnSqlite::Drain => drain::run(arguments, report).await,
        OnSqlite::Enqueue => enqueue::run(arguments, report).await,
        OnSqlite::Latency => latency::run(arguments, report).await,
    }
}
