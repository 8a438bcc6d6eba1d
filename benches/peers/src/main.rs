//! Runs outbox and published job queues on the same Postgres, with the same workloads, and prints one
//! table: `cargo run --release --manifest-path benches/peers/Cargo.toml`. What each is and how it is set
//! is in its own folder; starting them is in `legs`, what they are told to do in `workload`, the server
//! in `server`, and what is printed in `table`. README.md says how to read it.

mod arguments;
mod legs;
mod server;
mod table;
mod workload;

use std::process::ExitCode;

use arguments::Arguments;
use leg::Error;
use legs::Leg;
use server::Bench;
use table::Table;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            table::problem(&problem);
            return ExitCode::from(2);
        }
    };
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            table::failure(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    let legs = Leg::build(&arguments.peers).await?;
    let bench = Bench::start()?;
    let mut table = Table::new(arguments, &legs, &bench.description().await?);
    for workload in &arguments.workloads {
        workload.run(&bench, arguments, &legs, &mut table).await?;
    }
    table.print();
    Ok(())
}
