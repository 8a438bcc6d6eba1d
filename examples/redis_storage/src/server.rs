//! Where there is a Redis to use: the one of `REDIS_URL`, one that answers on this machine, or a
//! throwaway one. Part of the program and of the tests, and not of the storage.

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

const USUAL: &str = "redis://127.0.0.1:6379";
const PATIENCE: Duration = Duration::from_secs(10);
/// Outlives this process by the moment it takes to stop the server and to remove its directory,
/// however this process ends: its end closes the pipe that `cat` reads.
const WATCHDOG: &str = r#"
    redis-server --port 0 --unixsocket "$1/redis.sock" --dir "$1" --save "" --appendonly no \
        >"$1/log" 2>&1 &
    cat >/dev/null
    kill $!
    wait $!
    rm -rf "$1"
"#;

/// A Redis, and for a throwaway one its life: it ends when this is dropped.
pub(crate) struct Server {
    url: String,
    watchdog: Option<Child>,
}

impl Server {
    /// The Redis of `REDIS_URL`, else one on 127.0.0.1:6379 if it answers, else a throwaway one.
    pub(crate) fn find() -> Result<Self, Box<dyn Error>> {
        let given = env::var("REDIS_URL").ok();
        if given.is_some() || answers(USUAL) {
            let url = given.unwrap_or_else(|| USUAL.to_owned());
            return Ok(Self {
                url,
                watchdog: None,
            });
        }
        Self::throwaway()
    }

    /// A server of our own, on a socket in a directory of its own and on no port.
    pub(crate) fn throwaway() -> Result<Self, Box<dyn Error>> {
        if Command::new("redis-server")
            .arg("--version")
            .output()
            .is_err()
        {
            return Err(
                "no Redis: start one on 127.0.0.1:6379, name one in REDIS_URL, or install \
                the program redis-server (apt-get install redis-server)"
                    .into(),
            );
        }
        let directory = new_directory()?;
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "outbox-watchdog"])
            .arg(&directory)
            .stdin(Stdio::piped())
            // No hold on our output, whose reader waits for the last writer, and no part in what a
            // terminal sends to us.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let server = Self {
            url: format!("redis+unix://{}/redis.sock", directory.display()),
            watchdog: Some(watchdog),
        };
        let begun = Instant::now();
        while !answers(&server.url) {
            if begun.elapsed() > PATIENCE {
                return Err("redis-server was started and does not answer".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            drop(watchdog.stdin.take());
            // Nothing more can be done about a shell that cannot be waited for.
            let _ = watchdog.wait();
        }
    }
}

fn answers(url: &str) -> bool {
    let ping = || {
        let client = redis::Client::open(url)?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        redis::cmd("PING").query::<String>(&mut connection)
    };
    ping().is_ok()
}

fn new_directory() -> io::Result<PathBuf> {
    for number in 0.. {
        let name = format!("outbox-redis-{}-{number}", process::id());
        let directory = env::temp_dir().join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| directory),
        }
    }
    unreachable!("there is a number for each directory")
}
