//! A throwaway cluster: its directory, its configuration, and the postmaster of this process.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::account::{Account, command};
use super::binaries::Binaries;
use super::entropy::random_bits;
use super::error::{FixtureError, FixtureErrorKind};
use super::options::{ServerOptions, Shutdown};
use super::watchdog::Watchdog;

/// Recovery after an immediate shutdown may replay a whole benchmark.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Below the range from which Linux (32768) and macOS (49152) number outgoing connections. Inside
/// of it, a client that reconnects during a restart can be given the server's own port.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A running throwaway cluster. Dropping it stops Postgres and removes the directory.
pub(super) struct Cluster {
    directory: PathBuf,
    account: Option<Account>,
    binaries: Binaries,
    options: ServerOptions,
    password: String,
    port: u16,
    /// The postmaster, while it runs.
    postmaster: Mutex<Option<Child>>,
    watchdog: Watchdog,
}

impl Cluster {
    /// Creates a cluster and starts it on a free port.
    pub(super) fn create(options: &ServerOptions) -> Result<Self, FixtureError> {
        let (directory, account) = usable_directory()?;
        let prepare = || {
            let binaries = Binaries::find(account, &directory)?;
            let password = format!("{:016x}", random_bits().map_err(no_entropy)?);
            let watchdog = Watchdog::start(account, &directory)
                .map_err(|error| trouble("the watchdog cannot be started").with_source(error))?;
            Ok((binaries, password, watchdog))
        };
        let (binaries, password, watchdog) = prepare().inspect_err(|_: &FixtureError| {
            let _ = fs::remove_dir_all(&directory);
        })?;
        let mut cluster = Self {
            directory,
            account,
            binaries,
            options: options.clone(),
            password,
            port: 0,
            postmaster: Mutex::new(None),
            watchdog,
        };
        cluster.initdb()?;
        // Another process may take the port between the look and the start.
        for _ in 0..10 {
            cluster.port = free_port()?;
            match cluster.try_start()? {
                Start::Ready => return Ok(cluster),
                Start::PortTaken => {}
            }
        }
        Err(trouble("no free port was found between 15000 and 32000"))
    }

    /// The URL of the server over TCP, naming the database `postgres`.
    pub(super) fn url(&self) -> String {
        format!(
            "postgres://postgres:{}@127.0.0.1:{}/postgres?sslmode=disable",
            self.password, self.port
        )
    }

    /// The URL of a database over the Unix socket.
    pub(super) fn socket_url(&self, database: &str) -> String {
        format!(
            "postgres://postgres:{}@localhost:{}/{database}?sslmode=disable&host={}",
            self.password,
            self.port,
            self.directory.display()
        )
    }

    /// Stops Postgres and waits for its end; nothing happens if it is stopped.
    pub(super) fn stop(&self, how: Shutdown) -> Result<(), FixtureError> {
        let mut postmaster = self.postmaster();
        if let Some(child) = postmaster.as_mut() {
            signal(child.id(), how)
                .and_then(|()| child.wait())
                .map_err(|error| trouble("Postgres cannot be stopped").with_source(error))?;
        }
        *postmaster = None;
        Ok(())
    }

    /// Starts a stopped Postgres on its port, and waits until it accepts connections.
    pub(super) fn start(&self) -> Result<(), FixtureError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.try_start()? {
                Start::Ready => return Ok(()),
                Start::PortTaken if Instant::now() > deadline => {
                    return Err(trouble("the port of the stopped server was taken"));
                }
                Start::PortTaken => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn initdb(&self) -> Result<(), FixtureError> {
        let failed = |error: io::Error| trouble("initdb failed").with_source(error);
        let secret = self.directory.join("password");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&secret)
            .map_err(failed)?;
        file.write_all(self.password.as_bytes()).map_err(failed)?;
        give(&secret, self.account).map_err(failed)?;
        let mut initdb = command(&self.binaries.initdb, self.account, &self.directory);
        initdb
            .args(["--no-sync", "--no-locale", "--encoding=UTF8"])
            .args(["--username=postgres", "--pwfile=password"])
            // The directory's mode keeps others from the socket. Everybody can reach the port.
            .args(["--auth-local=trust", "--auth-host=password"])
            .arg("--pgdata=data")
            .stderr(std::process::Stdio::piped());
        let output = initdb.output().map_err(failed)?;
        fs::remove_file(&secret).map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(failed(io::Error::other(last_lines(&said))))
    }

    fn try_start(&self) -> Result<Start, FixtureError> {
        let failed = |error: io::Error| trouble("Postgres cannot be started").with_source(error);
        let mut postmaster = self.postmaster();
        if postmaster.is_some() {
            return Ok(Start::Ready);
        }
        let path = self.directory.join("log");
        let log = File::create(&path).map_err(failed)?;
        let mut postgres = command(&self.binaries.postgres, self.account, &self.directory);
        postgres
            .args(["-D", "data", "-k"])
            .arg(&self.directory)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-c", "shared_buffers=128MB", "-c", "max_connections=200"])
            .args(["-c", "logging_collector=off"])
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log);
        if !self.options.durable {
            postgres.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        for (name, value) in &self.options.settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let child = postmaster.insert(postgres.spawn().map_err(failed)?);
        let deadline = Instant::now() + START_LIMIT;
        while !self.accepts_connections(child.id()) {
            if let Some(status) = child.try_wait().map_err(failed)? {
                *postmaster = None;
                let said = fs::read_to_string(&path).unwrap_or_default();
                if said.contains("Address already in use") {
                    return Ok(Start::PortTaken);
                }
                let reason = format!("{status}: {}", last_lines(&said));
                return Err(failed(io::Error::other(reason)));
            }
            if Instant::now() > deadline {
                return Err(trouble("Postgres did not get ready within 60 seconds"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Start::Ready)
    }

    /// Reads the eighth line of `postmaster.pid`, as `pg_ctl` does.
    fn accepts_connections(&self, postmaster: u32) -> bool {
        let Ok(file) = fs::read_to_string(self.directory.join("data/postmaster.pid")) else {
            return false;
        };
        let mut lines = file.lines().map(str::trim);
        lines.next() == Some(postmaster.to_string().as_str()) && lines.nth(6) == Some("ready")
    }

    fn postmaster(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    /// Errors have no one to go to; the watchdog has the same duty.
    fn drop(&mut self) {
        self.watchdog.trigger();
        let _ = self.stop(Shutdown::Immediate);
        let _ = self.watchdog.wait();
        // As root we may remove what the account may not: an entry of a private parent.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

enum Start {
    Ready,
    PortTaken,
}

/// A new private directory, and the account that Postgres will use it under. In the temporary
/// directory, or in `/tmp` where that is too long for a socket or closed to the account.
fn usable_directory() -> Result<(PathBuf, Option<Account>), FixtureError> {
    let name = format!("outbox-pg-{:016x}", random_bits().map_err(no_entropy)?);
    for parent in [std::env::temp_dir(), PathBuf::from("/tmp")] {
        let directory = parent.join(&name);
        // `sun_path` is 104 bytes on macOS and 108 on Linux; `/.s.PGSQL.65535` takes 16. A path
        // is written unescaped into URLs and settings.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
        let fits = directory.as_os_str().len() <= 87;
        if !fits || !directory.to_string_lossy().chars().all(plain) || !directory.is_absolute() {
            continue;
        }
        if DirBuilder::new().mode(0o700).create(&directory).is_err() {
            continue;
        }
        let account = Account::needed(&directory)?;
        if give(&directory, account).is_ok() && is_open_to(account, &directory) {
            return Ok((directory, account));
        }
        let _ = fs::remove_dir(&directory);
    }
    Err(trouble(
        "no temporary directory is open to the user that Postgres runs as",
    ))
}

fn is_open_to(account: Option<Account>, directory: &Path) -> bool {
    command(Path::new("/bin/sh"), account, Path::new("/"))
        .args(["-c", "cd \"$0\" && : > probe && rm probe"])
        .arg(directory)
        .status()
        .is_ok_and(|status| status.success())
}

fn give(path: &Path, account: Option<Account>) -> io::Result<()> {
    account.map_or(Ok(()), |account| {
        chown(path, Some(account.uid), Some(account.gid))
    })
}

fn free_port() -> Result<u16, FixtureError> {
    let random = random_bits().map_err(no_entropy)?;
    let count = u64::from(PORTS.end - PORTS.start);
    let first = u16::try_from(random % count).expect("the range is of u16");
    PORTS
        .clone()
        .skip(usize::from(first))
        .chain(PORTS)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| trouble("no free port was found between 15000 and 32000"))
}

/// The shell's `kill`, because the standard library has none for this signal.
fn signal(process: u32, how: Shutdown) -> io::Result<()> {
    // Its exit status is of no use: a process that ended by itself cannot be signalled, and that
    // is what the caller waits for.
    command(Path::new("/bin/sh"), None, Path::new("/"))
        .args(["-c", "kill -s \"$0\" \"$1\"", how.signal()])
        .arg(process.to_string())
        .status()
        .map(drop)
}

/// The end of what a program said, on one line.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

fn no_entropy(error: io::Error) -> FixtureError {
    trouble("/dev/urandom cannot be read").with_source(error)
}

fn trouble(problem: &'static str) -> FixtureError {
    FixtureError::new(
        FixtureErrorKind::Cluster,
        problem,
        "read the source error; setting DATABASE_URL uses a server of yours instead",
    )
}
