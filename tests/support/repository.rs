//! The repository as the tidy tests read it: its files, and how a broken rule is told.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository: its path from the root, and its text.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    pub fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// Whether it is part of a package, as opposed to its tests.
    pub fn is_source(&self) -> bool {
        self.path.starts_with("src/") || self.path.contains("/src/")
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of this ending, in order, but none of a build's or of git's.
pub fn files(ending: &str) -> Vec<File> {
    pub fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("the repository can be read") {
            let path = entry.expect("the repository can be read").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("");
            if path.is_dir() {
                if name != "target" && (!name.starts_with('.') || name == ".ci") {
                    walk(&path, found);
                }
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), &mut found);
    found.sort();
    let files: Vec<File> = found
        .iter()
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .map(|path| File {
            path: path
                .strip_prefix(root())
                .expect("it is below the root")
                .display()
                .to_string(),
            text: fs::read_to_string(path).expect("sources are UTF-8"),
        })
        .collect();
    assert!(!files.is_empty(), "no .{ending} file was found");
    files
}

/// The Rust files that people write: not the wrong programs of the macros' UI tests.
pub fn rust_files() -> Vec<File> {
    let mut rust = files("rs");
    rust.retain(|file| !file.path.starts_with("outbox-macros/tests/ui/"));
    rust
}

/// Fails with everything that breaks the rule, and the rule.
pub fn nothing_breaks(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}
