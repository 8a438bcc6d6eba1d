//! Benchmarks: `cargo run --release -p outbox-bench -- <workload>`. What is measured is in
//! `workload/`, one file each; the limit it is compared with in `bare`; the counters and medians
//! in `measure`; the server and its databases in `server`; what is printed in `report`.

mod arguments;
mod bare;
mod measure;
mod report;
mod server;
mod workload;

use std::process::ExitCode;

use arguments::{Arguments, Workload};
use report::Report;
use server::Bench;

/// Any error ends the run; slowness never does, unless `--assert-ratio` asks for it.
type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            report::problem(&problem);
            return ExitCode::from(2);
        }
    };
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failure(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    let report = Report::new(arguments.json);
    let bench = Bench::start().await?;
    report.note(&bench.description().await?);
    for workload in &arguments.workloads {
        match workload {
            Workload::Drain => workload::drain::run(&bench, arguments, &report).await?,
            Workload::Enqueue => workload::enqueue::run(&bench, arguments, &report).await?,
            Workload::Idle => workload::idle::run(&bench, arguments, &report).await?,
            Workload::Latency => workload::latency::run(&bench, arguments, &report).await?,
        }
    }
    Ok(())
}
