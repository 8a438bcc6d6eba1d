//! The programs that are measured: building them, starting them, and their lines.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use leg::{Description, Drained, Error, Said};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::table;

/// A leg that can be named on the command line.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) name: &'static str,
    program: Program,
}

#[derive(Debug)]
enum Program {
    /// A package of this workspace and its binary.
    Rust {
        package: &'static str,
        binary: &'static str,
    },
    /// A script in this folder and the module it imports.
    Python {
        script: &'static str,
        module: &'static str,
    },
}

const fn ours(name: &'static str) -> Known {
    let package = "outbox-peers-ours";
    let binary = name;
    let program = Program::Rust { package, binary };
    Known { name, program }
}

/// One package, a binary for each form of claiming.
const fn ruststream(name: &'static str) -> Known {
    let package = "outbox-peers-ruststream-sqlx";
    let binary = name;
    let program = Program::Rust { package, binary };
    Known { name, program }
}

/// A peer's package has one binary of its own name.
const fn rust(name: &'static str, package: &'static str) -> Known {
    let binary = package;
    let program = Program::Rust { package, binary };
    Known { name, program }
}

/// All of them, in the order of the rounds and of the table.
pub(crate) const ALL: &[Known] = &[
    ours("outbox"),
    ours("bare"),
    rust("graphile_worker", "outbox-peers-graphile-worker"),
    rust("apalis-postgres", "outbox-peers-apalis-postgres"),
    rust("sqlxmq", "outbox-peers-sqlxmq"),
    rust("riverqueue", "outbox-peers-riverqueue"),
    rust("awa", "outbox-peers-awa"),
    ruststream("ruststream"),
    ruststream("ruststream-rowlock"),
    Known {
        name: "faststream-outbox",
        program: Program::Python {
            script: "faststream_outbox/leg.py",
            module: "faststream_outbox",
        },
    },
];

/// Until a leg has done what has no other limit, such as filling a database.
const PATIENCE: Duration = Duration::from_secs(600);
/// Without a handler in this time a drain is stuck. One peer waits for a heartbeat of 30 s.
const STUCK: Duration = Duration::from_secs(90);

/// A leg that is there, and what it says of itself.
pub(crate) struct Leg {
    pub(crate) name: &'static str,
    pub(crate) description: Description,
    command: Vec<String>,
}

impl Leg {
    /// Builds the programs of these legs and asks each what it is. A leg whose language is not
    /// installed is left out, with a line that says how to install it.
    pub(crate) async fn build(wanted: &[&Known]) -> Result<Vec<Self>, Error> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut built = Vec::new();
        for known in wanted {
            if let Program::Rust { package, .. } = known.program
                && !built.contains(&package)
            {
                build(here, package).await?;
                built.push(package);
            }
        }
        let mut legs = Vec::new();
        for known in wanted {
            let command = match known.program {
                Program::Rust { binary, .. } => vec![beside_this_program(binary)?],
                Program::Python { script, module } => {
                    let Some(python) = python(here, script, module).await else {
                        continue;
                    };
                    vec![python, here.join(script).display().to_string()]
                }
            };
            let mut leg = Self {
                name: known.name,
                description: Description {
                    package: None,
                    version: None,
                    fenced: String::new(),
                    left: String::new(),
                    settings: Vec::new(),
                },
                command,
            };
            leg.description = serde_json::from_value(leg.ask(&["describe"]).await?)?;
            legs.push(leg);
        }
        Ok(legs)
    }

    /// The version that runs here.
    pub(crate) fn version(&self) -> String {
        let Description {
            package, version, ..
        } = &self.description;
        let locked = || locked_version(include_str!("../Cargo.lock"), package.as_ref()?);
        version
            .clone()
            .or_else(locked)
            .unwrap_or("unknown".to_owned())
    }

    /// Runs it with these arguments to its end; it says nothing.
    pub(crate) async fn tell(&self, arguments: &[&str]) -> Result<(), Error> {
        let running = self.command(arguments).status();
        let status = tokio::time::timeout(PATIENCE, running).await??;
        if status.success() {
            Ok(())
        } else {
            Err(self.failed(arguments, &status.to_string()))
        }
    }

    /// Runs it with these arguments to its end and returns what it says.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Result<Value, Error> {
        let running = self.command(arguments).stderr(Stdio::inherit()).output();
        let output = tokio::time::timeout(PATIENCE, running).await??;
        if !output.status.success() {
            return Err(self.failed(arguments, &output.status.to_string()));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Starts a drain and waits until it is ready.
    pub(crate) async fn start(&self, url: &str, setting: &str) -> Result<Drain<'_>, Error> {
        let mut child = self
            .command(&["drain", url, setting])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("a leg has no input")?;
        let output = child.stdout.take().ok_or("a leg has no output")?;
        let mut drain = Drain {
            leg: self,
            _child: child,
            orders,
            answers: BufReader::new(output).lines(),
        };
        match drain.next().await? {
            Said::Ready => Ok(drain),
            said => Err(format!("{} is not ready: {said:?}", self.name).into()),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let (program, script) = self
            .command
            .split_first()
            .expect("every leg is made with a program");
        let mut command = Command::new(program);
        command.args(script).args(arguments).kill_on_drop(true);
        command
    }

    fn failed(&self, arguments: &[&str], how: &str) -> Error {
        format!("{} {}: {how}", self.name, arguments.join(" ")).into()
    }
}

/// A leg that drains. Ended with this value.
pub(crate) struct Drain<'l> {
    leg: &'l Leg,
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Drain<'_> {
    /// Lets it work.
    pub(crate) async fn go(&mut self) -> Result<(), Error> {
        Ok(self.orders.write_all(b"go\n").await?)
    }

    /// How many handlers have run, once that has changed.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(crate) async fn handled(&mut self) -> Result<u64, Error> {
        match self.next().await? {
            Said::Handled(handled) => Ok(handled),
            said => Err(format!("{} says {said:?} while it drains", self.leg.name).into()),
        }
    }

    /// Stops it.
    pub(crate) async fn stop(mut self) -> Result<Drained, Error> {
        self.orders.write_all(b"stop\n").await?;
        loop {
            if let Said::Drained(drained) = self.next().await? {
                return Ok(drained);
            }
        }
    }

    async fn next(&mut self) -> Result<Said, Error> {
        let name = self.leg.name;
        let line = tokio::time::timeout(STUCK, self.answers.next_line())
            .await
            .map_err(|_| format!("{name} has handled nothing for {STUCK:?}"))??;
        let line = line.ok_or_else(|| format!("{name} has failed"))?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Builds one package. One at a time: the features of what they share would otherwise depend on who else
/// is built, and with them the peer and the time to build it.
async fn build(here: &Path, package: &str) -> Result<(), Error> {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or("cargo".to_owned()));
    cargo
        .args(["build", "--package", package])
        .current_dir(here);
    // `cargo run` told these to this program. To a build script they are news, and what depends on it is
    // built again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let built = cargo.stdout(Stdio::null()).status().await?;
    if !built.success() {
        return Err(format!("cargo build --package {package}: {built}").into());
    }
    Ok(())
}

fn beside_this_program(binary: &str) -> Result<String, Error> {
    let folder: PathBuf = std::env::current_exe()?;
    let folder = folder.parent().ok_or("this program is in no folder")?;
    Ok(folder.join(binary).display().to_string())
}

/// A Python that has the module: that of `PEERS_PYTHON`, else `python3`.
async fn python(here: &Path, script: &str, module: &str) -> Option<String> {
    let python = std::env::var("PEERS_PYTHON").unwrap_or("python3".to_owned());
    let import = format!("import {module}");
    let mut look = Command::new(&python);
    look.args(["-c", &import]).stderr(Stdio::null());
    if look.status().await.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    let requirements = here.join(script).with_file_name("requirements.txt");
    table::problem(&format!(
        "skipped {module}: {python} has no such module. To measure it:\n  \
         python3 -m venv VENV && VENV/bin/pip install -r {} && export PEERS_PYTHON=VENV/bin/python",
        requirements.display()
    ));
    None
}

/// The version of a package in a lock file.
fn locked_version(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_that_of_the_package_of_exactly_this_name() {
        let lock = "[[package]]\nname = \"ab\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"a\"\nversion = \"4.5.6\"\n";
        assert_eq!(locked_version(lock, "a").as_deref(), Some("4.5.6"));
        assert_eq!(locked_version(lock, "b"), None);
    }
}
