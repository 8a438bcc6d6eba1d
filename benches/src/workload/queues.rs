//! Queues: one worker that serves 20 queues, of which one holds half of the messages; next to a
//! bare loop that asks one queue after the other.

use outbox::{BoxFuture, Context, Definition, Handler, Outcome, Requirements, Worker};
use serde_json::json;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{SIDES, Side, alternate, tell};
use crate::server::{Bench, KIND};
use crate::state::{QUEUES, State};
use crate::workload::Noop;
use crate::{Error, bare, ours};

const BARE: bare::Shape = bare::Shape {
    queues: &QUEUES,
    ..bare::PLAIN
};

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(20_000);
    report.note(&format!(
        "queues: {messages} no-op messages, half of them in one queue and the others in {}",
        QUEUES.len() - 1
    ));
    let state = State {
        due_in_queues: messages,
        ..State::default()
    };
    let run = async |side| match side {
        Side::Ours => ours::drain(bench, &state, messages, register).await,
        Side::Bare => bare::round(bench, &state, messages, BARE).await,
    };
    let [ours, bare] = alternate(report, arguments.rounds(), SIDES, run).await?;
    tell(
        report,
        "queues",
        &ours,
        &bare,
        json!({ "queues": QUEUES.len() }),
    );
    Ok(())
}

struct In<const QUEUE: usize>;

impl<const QUEUE: usize> Handler for In<QUEUE> {
    fn definition() -> Definition {
        Definition::new("noop", QUEUES[QUEUE]).kinds(vec![KIND.into()])
    }

    fn requires(_: &mut Requirements) {}

    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Noop::call(context)
    }
}

fn register(worker: Worker) -> Worker {
    macro_rules! register {
        ($worker:ident, $($queue:literal)*) => { $worker$(.register::<In<$queue>>())* };
    }
    register!(worker, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19)
}
