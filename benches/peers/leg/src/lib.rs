//! What every leg shares. A leg is a program that runs one job queue; the driver starts it, tells it
//! what to do in its arguments and standard input, and reads one JSON object a line from it. What
//! they say to each other is in `protocol`, how a leg measures itself in `run`.

mod protocol;
mod run;

pub use protocol::{Description, Drained, Enqueued, Said, Setting, Timed};
pub use run::{Error, Payload, Peer, Work, handled, run};
