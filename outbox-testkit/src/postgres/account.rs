//! The account Postgres runs under: it refuses to run as root, so that root needs another one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::{FixtureError, FixtureErrorKind};

/// A user and group to drop to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// The account to drop to: none, unless the process runs as root. `own_directory` is one
    /// that this process created, whose owner tells who we are.
    pub(super) fn needed(own_directory: &Path) -> Result<Option<Self>, FixtureError> {
        let owner = fs::metadata(own_directory).map(|metadata| metadata.uid());
        if owner.map_err(unknown_account)? != 0 {
            return Ok(None);
        }
        let accounts = fs::read_to_string("/etc/passwd").map_err(unknown_account)?;
        Self::unprivileged(&accounts).map(Some).ok_or_else(|| {
            FixtureError::new(
                FixtureErrorKind::Cluster,
                "Postgres refuses to run as root and there is no user `postgres` or `nobody`",
                "create one of them, run as another user, or set DATABASE_URL",
            )
        })
    }

    fn unprivileged(accounts: &str) -> Option<Self> {
        ["postgres", "_postgres", "nobody"]
            .into_iter()
            .find_map(|name| {
                accounts.lines().find_map(|line| {
                    let mut fields = line.split(':');
                    if fields.next() != Some(name) {
                        return None;
                    }
                    // On macOS `nobody` is -2, which is how this number is written as unsigned.
                    let mut number = || fields.next()?.parse::<i64>().ok();
                    let (_password, uid, gid) = (number(), number()?, number()?);
                    let account = Self {
                        uid: u32::try_from(uid & 0xffff_ffff).ok()?,
                        gid: u32::try_from(gid & 0xffff_ffff).ok()?,
                    };
                    (account.uid != 0).then_some(account)
                })
            })
    }
}

/// A command of the cluster: under `account`, in `directory`, knowing nothing of the caller's
/// locale or `PG*` variables, in a process group of its own so that Ctrl-C in a terminal leaves
/// the order of the shutdown to the watchdog.
pub(super) fn command(program: &Path, account: Option<Account>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    let variables = std::env::vars_os().map(|(name, _)| name);
    for name in variables.filter(|name| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command
        .env("LC_ALL", "C")
        // Without it initdb compares every time zone file with the clock.
        .env("TZ", "UTC")
        .current_dir(directory)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

fn unknown_account(error: std::io::Error) -> FixtureError {
    FixtureError::new(
        FixtureErrorKind::Cluster,
        "cannot find out which user Postgres should run as",
        "run as a user other than root, or set DATABASE_URL",
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_postgres_is_preferred_to_nobody() {
        let accounts =
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/x\npostgres:x:101:104::/:/x\n";
        let account = Account::unprivileged(accounts).expect("there is one");
        assert_eq!((account.uid, account.gid), (101, 104));
    }

    #[test]
    fn nobody_is_enough_and_may_be_negative() {
        let account = Account::unprivileged("nobody:*:-2:-2:x:/:/x\n").expect("there is one");
        assert_eq!((account.uid, account.gid), (4_294_967_294, 4_294_967_294));
        assert_eq!(Account::unprivileged("root:x:0:0::/root:/bin/sh\n"), None);
    }
}
