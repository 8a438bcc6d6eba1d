//! How a throwaway cluster is configured and how it is stopped.

/// The settings of a throwaway cluster.
///
/// The default is for tests: nothing is synced to disk, so that a crash of the *machine* would
/// lose the cluster. A crash of Postgres alone loses nothing that was committed.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    pub(super) durable: bool,
    pub(super) settings: Vec<(String, String)>,
}

impl ServerOptions {
    /// The settings for tests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Syncs to disk as a production server does. For benchmarks.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Sets a parameter of `postgresql.conf`, as in `.set("max_connections", "20")`. The last
    /// one wins, also over the fixture's own.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// How a throwaway cluster is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions are ended with an error and their transactions rolled back; Postgres then shuts
    /// down cleanly. What an operator's restart does.
    Fast,
    /// All processes end at once, and the next start recovers from the log. What a crash does.
    Immediate,
}

impl Shutdown {
    pub(super) const fn signal(self) -> &'static str {
        match self {
            Self::Fast => "INT",
            Self::Immediate => "QUIT",
        }
    }
}
