//! House rules about what depends on what, one test each. They read the manifests and ask cargo for
//! its tree, and build nothing.

#[path = "support/repository.rs"]
mod repository;

use std::collections::BTreeSet;
use std::process::Command;

use repository::{File, files, nothing_breaks, read, root, rust_files};

/// The runtimes there are adapters for. Each is the name of a crate, of a feature of the facade,
/// and, after `outbox-`, of the adapter's package.
const RUNTIMES: [&str; 3] = ["async-std", "smol", "tokio"];

/// The lines of a manifest's table, without comments.
fn table(manifest: &str, name: &str) -> Vec<String> {
    let header = format!("[{name}]");
    read(manifest)
        .lines()
        .skip_while(|line| line.trim() != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn dependencies(manifest: &str) -> Vec<String> {
    named_in(manifest, "dependencies")
}

/// The packages that a manifest's table names.
fn named_in(manifest: &str, table_name: &str) -> Vec<String> {
    table(manifest, table_name)
        .iter()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}

/// Whether this crate is an async runtime, a database driver, or part of one.
fn is_foreign_to_the_core(name: &str) -> bool {
    ["tokio", "sqlx", "async-std", "smol", "async-io", "mio"]
        .iter()
        .any(|foreign| name == *foreign || name.starts_with(&format!("{foreign}-")))
        || name == "outbox-sqlx"
        || RUNTIMES
            .iter()
            .any(|runtime| name == format!("outbox-{runtime}"))
}

/// Everything that cargo builds for these packages and features, each as name and version.
fn tree(arguments: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}"])
        .args(arguments.split(' '))
        .current_dir(root())
        .output()
        .expect("cargo built this test, so it is there");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && tree.contains("outbox-core v"),
        "cargo tree {arguments} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    tree.lines().map(str::to_owned).collect()
}

/// The name in a line of cargo's tree.
fn name_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or("")
}

#[test]
fn the_core_names_no_runtime_and_no_database() {
    let named = dependencies("outbox-core/Cargo.toml");
    assert!(named.len() > 3, "the manifest was not read: {named:?}");
    let broken: Vec<String> = named
        .into_iter()
        .filter(|name| is_foreign_to_the_core(name))
        .collect();
    nothing_breaks(
        "outbox-core may not depend on a runtime or a driver",
        &broken,
    );
}

#[test]
fn the_core_brings_no_runtime_and_no_database_along() {
    let tree = tree("-p outbox-core -e normal --all-features");
    assert!(tree.iter().any(|line| name_of(line) == "uuid"));
    let broken: Vec<String> = tree
        .into_iter()
        .filter(|line| is_foreign_to_the_core(name_of(line)))
        .collect();
    nothing_breaks("outbox-core may not bring these along", &broken);
}

/// The runtimes in a tree: themselves, not their adapters.
fn runtimes_in(tree: &BTreeSet<String>) -> Vec<&str> {
    let in_tree = |runtime: &&str| tree.iter().any(|line| name_of(line) == *runtime);
    RUNTIMES.into_iter().filter(in_tree).collect()
}

#[test]
fn a_runtime_brings_no_other_along() {
    for runtime in RUNTIMES {
        // What a user gets, and what the tests of the adapter are built with: where tokio is not
        // in the build, no task can be in a context of it.
        for arguments in [
            format!("-p outbox -e normal --no-default-features --features postgres,{runtime}"),
            format!("-p outbox-{runtime} -e normal,dev"),
            format!("-p outbox-{runtime} -e normal,dev --no-default-features"),
        ] {
            let tree = tree(&arguments);
            assert!(tree.iter().any(|line| name_of(line) == "sqlx-postgres"));
            assert_eq!(runtimes_in(&tree), [runtime], "cargo tree {arguments}");
        }
    }
    let none = tree("-p outbox -e normal --features postgres");
    assert!(runtimes_in(&none).is_empty(), "none is on by default");
    let default = tree("-e normal,dev");
    assert_eq!(runtimes_in(&default), ["tokio"], "what the examples need");
}

#[test]
fn async_std_is_named_by_its_adapter_alone() {
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    let broken: Vec<String> = files("toml")
        .into_iter()
        .map(|file| file.path)
        .filter(|path| path.ends_with("Cargo.toml") && path != "outbox-async-std/Cargo.toml")
        .filter(|path| {
            let mut named = tables.iter().flat_map(|table| named_in(path, table));
            named.any(|name| name == "async-std")
        })
        .collect();
    nothing_breaks("async-std is discontinued; use its adapter", &broken);
}

#[test]
fn an_adapter_is_below_150_lines_and_decides_nothing() {
    let mut broken = Vec::new();
    for runtime in RUNTIMES {
        let source = format!("outbox-{runtime}/src/");
        let files = rust_files();
        let files = files.iter().filter(|file| file.path.starts_with(&source));
        let lines: usize = files.map(File::lines).sum();
        if !(1..150).contains(&lines) {
            broken.push(format!("{source}: {lines} lines"));
        }
    }
    nothing_breaks("an adapter is the Runtime and nothing else", &broken);
}

#[test]
fn the_macros_depend_on_nothing_of_ours() {
    let broken: Vec<String> = dependencies("outbox-macros/Cargo.toml")
        .into_iter()
        .filter(|name| name.starts_with("outbox"))
        .collect();
    nothing_breaks("outbox-macros is built before every other package", &broken);
}

#[test]
fn the_users_query_types_stay_theirs() {
    // Features of sqlx are shared with the caller's crate, where these change what `query!` makes.
    let mut broken = Vec::new();
    for manifest in ["Cargo.toml", "outbox-sqlx/Cargo.toml"] {
        for table_name in ["dependencies", "features", "workspace.dependencies"] {
            for line in table(manifest, table_name) {
                let named = |feature: &str| line.contains(&format!("\"{feature}\""));
                if line.starts_with("sqlx") && ["chrono", "time", "json"].into_iter().any(named) {
                    broken.push(format!("{manifest}: {line}"));
                }
            }
        }
    }
    nothing_breaks("sqlx's chrono, time and json features stay off", &broken);
}
