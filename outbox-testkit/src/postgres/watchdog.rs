//! The watchdog of a throwaway cluster: a shell that outlives this process by the moment it
//! takes to stop Postgres and to remove the directory.
//!
//! Destructors are not enough: statics have none, and a killed process runs none.

use std::io;
use std::path::Path;
use std::process::{Child, Stdio};

use super::account::{Account, command};

const SCRIPT: &str = include_str!("watchdog.sh");

/// A running watchdog; [`trigger`](Self::trigger) or the end of this process sets it off.
pub(super) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Starts watching over the cluster in `directory`.
    pub(super) fn start(account: Option<Account>, directory: &Path) -> io::Result<Self> {
        // Not in the directory that it removes, and with no hold on our own output: a reader of
        // that waits until the last writer is gone.
        let shell = command(Path::new("/bin/sh"), account, Path::new("/"))
            .args(["-c", SCRIPT, "outbox-watchdog"])
            .arg(directory)
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self { shell })
    }

    /// Closes the pipe. The cluster ends soon after; [`wait`](Self::wait) says when.
    pub(super) fn trigger(&mut self) {
        drop(self.shell.stdin.take());
    }

    /// Waits until the cluster has ended and its directory is gone.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.shell.wait().map(drop)
    }
}
