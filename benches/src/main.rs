//! Benchmarks: `cargo run --release -p outbox-bench -- <workload>`. What is measured is in
//! `workload/`; what they share of a worker in `ours` and the limit it is compared with in `bare`;
//! rounds of both in `round`; the counters and medians in `measure`, and what they may be in
//! `baseline`; the server in `server` and what is in its databases in `state`; the files of SQLite
//! and the limit on them in `sqlite`; worker processes in `child`; what is printed in `report`.

mod arguments;
mod bare;
mod baseline;
mod child;
mod measure;
mod ours;
mod plot;
mod report;
mod round;
mod server;
mod sqlite;
mod state;
mod workload;

use std::process::ExitCode;

use arguments::{Arguments, Workload};
use report::Report;
use server::Bench;
use tokio::sync::OnceCell;

/// Any error ends the run; slowness never does, unless `--assert-ratio` asks for it.
type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let ended = match given.as_slice() {
        [hidden, url] if hidden == workload::processes::HIDDEN => {
            workload::processes::child(url).await
        }
        [hidden, url, messages] if hidden == workload::memory::HIDDEN => {
            workload::memory::child(url, messages).await
        }
        _ => match Arguments::parse(given.into_iter()) {
            Ok(arguments) => run(&arguments).await,
            Err(problem) => {
                report::problem(&problem);
                return ExitCode::from(2);
            }
        },
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failure(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    let report = Report::new(arguments.json);
    let server = OnceCell::new();
    // Started by the first workload on Postgres: those on SQLite need none.
    let bench = async || server.get_or_try_init(|| start(&report)).await;
    for workload in &arguments.workloads {
        match workload {
            Workload::Drain => workload::drain::run(bench().await?, arguments, &report).await?,
            Workload::Enqueue => workload::enqueue::run(bench().await?, arguments, &report).await?,
            Workload::Idle => workload::idle::run(bench().await?, arguments, &report).await?,
            Workload::Latency => workload::latency::run(bench().await?, arguments, &report).await?,
            Workload::Much(much) => {
                workload::states::run(bench().await?, arguments, &report, *much).await?;
            }
            Workload::Few => workload::few::run(bench().await?, arguments, &report).await?,
            Workload::Tuned => workload::tuned::run(bench().await?, arguments, &report).await?,
            Workload::Processes => {
                workload::processes::run(bench().await?, arguments, &report).await?;
            }
            Workload::Sustained { snapshot } => {
                workload::sustained::run(bench().await?, arguments, &report, *snapshot).await?;
            }
            Workload::Loaded => workload::loaded::run(bench().await?, arguments, &report).await?,
            Workload::Scheduled => {
                workload::scheduled::run(bench().await?, arguments, &report).await?;
            }
            Workload::Queues => workload::queues::run(bench().await?, arguments, &report).await?,
            Workload::Relaxed => workload::relaxed::run(bench().await?, arguments, &report).await?,
            Workload::Memory => workload::memory::run(bench().await?, arguments, &report).await?,
            Workload::Sqlite(which) => workload::sqlite::run(*which, arguments, &report).await?,
        }
    }
    if let Some(folder) = &arguments.plot {
        plot::write(folder, &report.results())?;
    }
    match &arguments.baseline {
        Some(file) => baseline::check(file, &report.results()),
        None => Ok(()),
    }
}

async fn start(report: &Report) -> Result<Bench, Error> {
    let bench = Bench::start().await?;
    report.note(&bench.description().await?);
    Ok(bench)
}
