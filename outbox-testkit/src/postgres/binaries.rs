//! Finding the Postgres server binaries of this machine.

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::{Account, command};
use super::error::{FixtureError, FixtureErrorKind};

/// The programs a cluster needs.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub(super) initdb: PathBuf,
    pub(super) postgres: PathBuf,
}

impl Binaries {
    /// Finds programs that `account` can run: on `PATH`, then where `pg_config` points, then in
    /// the folders of the distributions, newest version first.
    pub(super) fn find(account: Option<Account>, directory: &Path) -> Result<Self, FixtureError> {
        let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>());
        let candidates = on_path
            .unwrap_or_default()
            .into_iter()
            .chain(named_by_pg_config())
            .chain(installed(Path::new("/")));
        Self::first_usable(candidates, account, directory)
    }

    fn first_usable(
        folders: impl Iterator<Item = PathBuf>,
        account: Option<Account>,
        directory: &Path,
    ) -> Result<Self, FixtureError> {
        for folder in folders {
            let binaries = Self {
                initdb: folder.join("initdb"),
                postgres: folder.join("postgres"),
            };
            if binaries.run(account, directory) {
                return Ok(binaries);
            }
        }
        Err(FixtureError::new(
            FixtureErrorKind::NotInstalled,
            "no Postgres found",
            "set DATABASE_URL, or install the server binaries (Debian, Ubuntu: apt-get install postgresql; \
             Fedora: dnf install postgresql-server; macOS: brew install postgresql@17)",
        ))
    }

    /// Client packages leave folders with only some programs, and a folder below a private home
    /// is closed to the account: only running them tells.
    fn run(&self, account: Option<Account>, directory: &Path) -> bool {
        [&self.initdb, &self.postgres].into_iter().all(|program| {
            program.is_file()
                && command(program, account, directory)
                    .arg("--version")
                    .status()
                    .is_ok_and(|status| status.success())
        })
    }
}

fn named_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !folder.trim().is_empty()).then(|| folder.trim().into())
}

/// The `bin` folders of packages below `root`, newest version first.
fn installed(root: &Path) -> Vec<PathBuf> {
    // Debian and Ubuntu, Red Hat's and PGDG's packages, Homebrew on both architectures,
    // Postgres.app, and builds from source.
    let parents = [
        ("usr/lib/postgresql", ""),
        ("usr", "pgsql-"),
        ("opt/homebrew/opt", "postgresql"),
        ("usr/local/opt", "postgresql"),
        ("Applications/Postgres.app/Contents/Versions", ""),
        ("usr/local", "pgsql"),
    ];
    let mut folders = Vec::new();
    for (parent, prefix) in parents {
        let Ok(entries) = fs::read_dir(root.join(parent)) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(rest) = name.strip_prefix(prefix) {
                folders.push((version(rest), entry.path().join("bin")));
            }
        }
    }
    folders.sort_by_key(|(version, _)| Reverse(*version));
    folders.into_iter().map(|(_, folder)| folder).collect()
}

/// The first number in a folder's name: `17` in `@17`, 0 without one.
fn version(name: &str) -> u32 {
    let digits: String = name
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_programs_do_not_run_is_passed_over_and_the_error_says_what_to_install() {
        let folder = env::temp_dir().join(format!("outbox-broken-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary directory");
        for program in ["initdb", "postgres"] {
            fs::write(folder.join(program), "not a program").expect("a temporary file");
        }
        let missing = folder.join("missing");
        let found = Binaries::first_usable([missing, folder.clone()].into_iter(), None, &folder);
        fs::remove_dir_all(&folder).expect("a temporary directory");
        let error = found.expect_err("nothing there runs");
        assert_eq!(error.kind(), FixtureErrorKind::NotInstalled);
        assert_eq!(
            error.to_string(),
            "no Postgres found: set DATABASE_URL, or install the server binaries (Debian, Ubuntu: apt-get install postgresql; \
             Fedora: dnf install postgresql-server; macOS: brew install postgresql@17)"
        );
    }

    #[test]
    fn the_newest_version_comes_first_by_number_and_not_by_text() {
        let root = env::temp_dir().join(format!("outbox-binaries-{}", std::process::id()));
        for folder in [
            "usr/lib/postgresql/9/bin",
            "usr/lib/postgresql/15/bin",
            "opt/homebrew/opt/postgresql@17/bin",
            "opt/homebrew/opt/redis/bin",
        ] {
            fs::create_dir_all(root.join(folder)).expect("a temporary directory");
        }
        let found = installed(&root);
        fs::remove_dir_all(&root).expect("a temporary directory");
        assert_eq!(
            found,
            [
                root.join("opt/homebrew/opt/postgresql@17/bin"),
                root.join("usr/lib/postgresql/15/bin"),
                root.join("usr/lib/postgresql/9/bin"),
            ]
        );
    }
}
