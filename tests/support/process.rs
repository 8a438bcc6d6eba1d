//! Worker processes. A test binary starts itself again, with only its test `worker_process`
//! selected and a role in the environment; without that variable the test returns at once. The
//! two talk in lines: the worker says something on standard output, the test tells it something
//! on its standard input, whose end also ends the worker.

use std::ffi::OsStr;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::within;

const ROLE: &str = "OUTBOX_TEST_ROLE";
const DATABASE: &str = "OUTBOX_TEST_DATABASE";
const NAME: &str = "OUTBOX_TEST_WORKER";
/// The test harness prints to standard output as well.
const MARK: char = '@';

/// A started worker process. Dropping it kills it, even when it is stopped.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: UnboundedReceiver<String>,
}

impl Process {
    /// Starts a worker of this role under a name of its own.
    pub(crate) fn start(role: &str, name: &str, url: &str) -> Self {
        let program = std::env::current_exe().expect("the test binary has a path");
        Self::spawn(Command::new(program), role, name, url)
    }

    /// The same, started by another program that takes a command line: `program arguments exe ..`.
    pub(crate) fn start_under(mut launcher: Command, role: &str, name: &str, url: &str) -> Self {
        let program = std::env::current_exe().expect("the test binary has a path");
        launcher.arg(AsRef::<OsStr>::as_ref(&program));
        Self::spawn(launcher, role, name, url)
    }

    fn spawn(mut command: Command, role: &str, name: &str, url: &str) -> Self {
        let mut child = command
            .args(["worker_process", "--exact", "--nocapture"])
            .env(ROLE, role)
            .env(DATABASE, url)
            .env(NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the worker process starts");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = unbounded_channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let Some(said) = line.strip_prefix(MARK) else {
                    continue;
                };
                if sender.send(said.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// The next line that starts with `prefix`, without it; those before are skipped.
    ///
    /// Panics if the process ends first.
    pub(crate) async fn hear(&mut self, prefix: &str) -> String {
        let hearing = async {
            while let Some(line) = self.lines.recv().await {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return Some(rest.trim().to_owned());
                }
            }
            None
        };
        within(&format!("the worker process says {prefix:?}"), hearing)
            .await
            .unwrap_or_else(|| panic!("the worker process ended without {prefix:?}"))
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("the worker process reads");
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        // The shell's own `kill`, because not every machine has one as a program.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", self.child.id())])
            .status()
            .expect("there is a shell");
        assert!(sent.success(), "the signal {signal} is sent");
    }

    /// Kills it with SIGKILL and returns when it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Waits until it ends by itself. True if it succeeded.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let closed = async { while self.lines.recv().await.is_some() {} };
        within("the worker process ends", closed).await;
        self.child.wait().expect("it is our child")
    }

    fn end(&mut self) {
        // It may have ended, and is reaped below all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a worker process was started with.
pub(crate) struct Assignment {
    pub(crate) role: String,
    /// The database's URL as the test gave it.
    pub(crate) given: String,
    /// The same, with the worker's name as Postgres' application name.
    pub(crate) url: String,
    pub(crate) name: String,
    /// What the test tells.
    pub(crate) told: UnboundedReceiver<String>,
}

impl Assignment {
    /// Waits until the test tells this line; those before are skipped.
    pub(crate) async fn told(&mut self, line: &str) {
        while let Some(told) = self.told.recv().await {
            if told == line {
                return;
            }
        }
        // The end of standard input ends the process.
        std::future::pending().await
    }
}

/// Runs `work` if this process was started as a worker, and returns at once otherwise.
pub(crate) fn serve<F: Future<Output = ()>>(work: impl FnOnce(Assignment) -> F) {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let variable = |name: &str| std::env::var(name).expect("it is set with the role");
    let (sender, told) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
        // The test is gone, or wants no more of this process.
        std::process::exit(0);
    });
    let name = variable(NAME);
    let given = variable(DATABASE);
    let separator = if given.contains('?') { '&' } else { '?' };
    let assignment = Assignment {
        role,
        url: format!("{given}{separator}application_name={name}"),
        given,
        name,
        told,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime is made");
    runtime.block_on(work(assignment));
    // Handlers that wait for ever must not keep the process.
    runtime.shutdown_timeout(Duration::ZERO);
}

/// Says a line to the test.
#[allow(
    clippy::print_stdout,
    reason = "it is how a worker process talks to its test"
)]
pub(crate) fn say(line: &str) {
    // The harness leaves its own line unfinished.
    println!("\n{MARK}{line}");
}
