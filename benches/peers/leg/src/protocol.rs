//! What a leg says, one JSON object a line.

use serde::{Deserialize, Serialize};

/// A job queue, and the settings it is measured with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// The package whose version is told; `None` for what is in this repository.
    pub package: Option<String>,
    /// The version, where it is not in the lock file of this workspace.
    pub version: Option<String>,
    /// Whether the writes of a former holder are fenced out, and by what.
    pub fenced: String,
    /// A query that counts the messages that are not settled.
    pub left: String,
    /// In the order of the table.
    pub settings: Vec<Setting>,
}

/// A way to run it, and what that way is measured in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// One word for the table.
    pub name: String,
    /// What is set; everything else is as the package ships it.
    pub text: String,
    /// Messages of a drain at most, so that the slow ones end as well; 0 if it is not drained.
    pub drain: usize,
    /// Whether four processes drain with it.
    pub processes: bool,
    /// Whether messages are enqueued with it.
    pub enqueue: bool,
    /// Whether an idle worker is timed with it.
    pub latency: bool,
}

impl Setting {
    /// Measured in everything, with a whole backlog.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            drain: usize::MAX,
            processes: true,
            enqueue: true,
            latency: true,
        }
    }

    /// Drains so many messages at most.
    #[must_use]
    pub const fn drain_at_most(mut self, messages: usize) -> Self {
        self.drain = messages;
        self
    }

    /// Is not drained by four processes.
    #[must_use]
    pub const fn one_process(mut self) -> Self {
        self.processes = false;
        self
    }

    /// Enqueues as another setting does, which stands for both.
    #[must_use]
    pub const fn no_enqueue(mut self) -> Self {
        self.enqueue = false;
        self
    }

    /// Is not timed.
    #[must_use]
    pub const fn no_latency(mut self) -> Self {
        self.latency = false;
        self
    }

    /// Only timed: nobody would drain a backlog with it.
    #[must_use]
    pub const fn only_latency(mut self) -> Self {
        self.drain = 0;
        self.processes = false;
        self.enqueue = false;
        self
    }

    /// Only enqueues.
    #[must_use]
    pub const fn only_enqueue(mut self) -> Self {
        self.drain = 0;
        self.processes = false;
        self.latency = false;
        self
    }
}

/// A line of a leg that drains. It waits for the line `go` once it is ready, and for `stop` while it
/// works.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It is connected; only `go` is missing.
    Ready,
    /// So many handlers have run so far.
    Handled(u64),
    /// It has stopped, and this is the result.
    Drained(Drained),
}

/// What a drain took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Drained {
    /// Handlers that ran; more than there were messages if some ran twice.
    pub handled: u64,
    /// From `go` to the last handler; zero if none ran.
    pub seconds: f64,
    /// Processor time of the process in user mode, from `go` to `stop`.
    pub user_seconds: f64,
    /// The same in the kernel.
    pub system_seconds: f64,
}

/// Messages per second.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Enqueued {
    /// One at a time, each its own transaction.
    pub one: f64,
    /// The package's own way to write many, on one connection.
    pub many: f64,
}

/// From the return of the enqueue's commit to the start of the handler.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timed {
    /// One for each message.
    pub milliseconds: Vec<f64>,
}
