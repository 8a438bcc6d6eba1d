//! House rules that a machine can check, one test each. They read the sources and build nothing.
//! What depends on what is in `tidy_dependencies.rs`.

#[path = "support/repository.rs"]
mod repository;

use std::fs;
use std::path::Path;

use repository::{File, files, nothing_breaks, read, root, rust_files};

const PACKAGES: [&str; 10] = [
    ".",
    "examples/redis_storage",
    "outbox-async-std",
    "outbox-core",
    "outbox-macros",
    "outbox-smol",
    "outbox-sqlx",
    "outbox-testkit",
    "outbox-tokio",
    "tests/end_to_end",
];

#[test]
fn every_package_has_the_lints_of_the_workspace() {
    let manifests = files("toml");
    let broken: Vec<String> = manifests
        .iter()
        .filter(|file| file.path.ends_with("Cargo.toml"))
        .filter(|file| !file.text.contains("[lints]\nworkspace = true"))
        .map(|file| file.path.clone())
        .collect();
    nothing_breaks("a package says [lints] workspace = true", &broken);
}

#[test]
fn every_query_file_is_loaded_exactly_once() {
    let sources: String = rust_files()
        .into_iter()
        .filter(|file| file.path.starts_with("outbox-sqlx/src/"))
        .map(|file| file.text)
        .collect();
    let broken: Vec<String> = queries()
        .iter()
        .map(|file| (file, sources.matches(&loaded_as(file)).count()))
        .filter(|(_, count)| *count != 1)
        .map(|(file, count)| format!("{}: loaded {count} times", file.path))
        .collect();
    nothing_breaks("one module loads each file of queries/ once", &broken);
}

fn queries() -> Vec<File> {
    let mut queries = files("sql");
    queries.retain(|file| file.path.starts_with("outbox-sqlx/queries/"));
    assert!(queries.len() > 10, "the queries were not found");
    queries
}

fn loaded_as(file: &File) -> String {
    file.path.replacen("outbox-sqlx/", "\"../", 1) + "\""
}

#[test]
fn every_query_says_what_it_takes_returns_and_locks() {
    let mut broken = Vec::new();
    for file in queries() {
        let header: String = file
            .text
            .lines()
            .take_while(|line| line.starts_with("--"))
            .map(|line| format!("{line}\n"))
            .collect();
        let body = &file.text[header.len()..];
        for word in ["Returns ", "Locks: ", "Index: "] {
            if !header.contains(word) {
                broken.push(format!("{}: the header has no \"{word}\"", file.path));
            }
        }
        for parameter in (1..=20).map(|number| format!("${number}")) {
            if uses(body, &parameter) && !uses(&header, &parameter) {
                broken.push(format!("{}: {parameter} is not in the header", file.path));
            }
        }
        let statement: String = body
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"))
            .collect();
        if statement.contains(';') {
            broken.push(format!("{}: more than one statement", file.path));
        }
    }
    nothing_breaks("a query begins with its purpose and its contract", &broken);
}

/// Whether `$1` occurs, and not only as the beginning of `$10`.
fn uses(text: &str, parameter: &str) -> bool {
    text.match_indices(parameter).any(|(at, found)| {
        let next = text[at + found.len()..].chars().next();
        !next.is_some_and(|next| next.is_ascii_digit())
    })
}

#[test]
fn migrations_are_numbered_without_gaps_and_all_applied() {
    let mut broken = Vec::new();
    for (folder, module) in [
        ("outbox-sqlx/migrations/", "outbox-sqlx/src/migrate.rs"),
        (
            "outbox-sqlx/migrations/sqlite/",
            "outbox-sqlx/src/sqlite/migrate.rs",
        ),
    ] {
        let mut migrations = files("sql");
        migrations.retain(|file| {
            let name = file.path.strip_prefix(folder);
            name.is_some_and(|name| !name.contains('/'))
        });
        assert!(!migrations.is_empty(), "{folder} is empty");
        let applied = read(module);
        for (number, file) in (1..).zip(&migrations) {
            let name = &file.path;
            if !name.starts_with(&format!("{folder}{number:04}_")) {
                broken.push(format!("{name}: number {number:04} was expected"));
            }
            if !file.text.starts_with(&format!("-- Migration {number}: ")) {
                broken.push(format!(
                    "{name}: does not begin with its number and purpose"
                ));
            }
            if !file.text.contains("Workers of older builds") {
                broken.push(format!(
                    "{name}: does not say whether old workers survive it"
                ));
            }
            let included = name.trim_start_matches("outbox-sqlx/");
            if !applied.contains(&format!("../{included}\"")) {
                broken.push(format!("{name}: not applied by {module}"));
            }
        }
    }
    nothing_breaks("migrations are a numbered, append-only list", &broken);
}

#[test]
fn every_module_begins_with_its_documentation() {
    let broken: Vec<String> = rust_files()
        .iter()
        .filter(|file| {
            let begins = file.text.starts_with("//!") || file.text.starts_with("#![doc");
            !begins
        })
        .map(|file| file.path.clone())
        .collect();
    nothing_breaks("a module begins with //!, saying what lives there", &broken);
}

#[test]
fn no_file_is_too_long() {
    let mut broken: Vec<String> = Vec::new();
    let mut at_most = |file: &File, lines: usize, limit: usize, why: &str| {
        if lines > limit {
            broken.push(format!(
                "{}: {lines} lines, {limit} allowed {why}",
                file.path
            ));
        }
    };
    for file in rust_files() {
        at_most(&file, file.lines(), 600, "for any file");
        match file.path.as_str() {
            "outbox-core/src/memory.rs" => {
                at_most(
                    &file,
                    file.lines(),
                    400,
                    "for what is read as a specification",
                );
            }
            "src/lib.rs" => at_most(&file, file.lines(), 100, "for the facade"),
            _ => {}
        }
    }
    nothing_breaks("look for the second concept in the file", &broken);
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here, so that this file does not find itself.
    let marks = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["dbg", "!("],
        ["#[ign", "ore"],
    ]
    .map(|halves| halves.concat());
    let mut broken = Vec::new();
    for file in rust_files().into_iter().chain(files("sql")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            if let Some(mark) = marks.iter().find(|mark| line.contains(mark.as_str())) {
                broken.push(format!("{}:{number}: {mark}", file.path));
            }
        }
    }
    nothing_breaks("what is not finished is an issue, not a mark", &broken);
}

#[test]
fn no_page_keeps_what_a_merge_left() {
    let marks = [["<<<<", "<<< "], [">>>>", ">>> "]].map(|halves| halves.concat());
    let mut broken = Vec::new();
    let kinds = ["rs", "sql", "md", "toml", "json"];
    for file in kinds.into_iter().flat_map(files) {
        for (number, line) in (1..).zip(file.text.lines()) {
            if marks.iter().any(|mark| line.starts_with(mark.as_str())) {
                broken.push(format!("{}:{number}", file.path));
            }
        }
    }
    nothing_breaks("both sides of a merge are one text", &broken);
}

#[test]
fn functions_use_the_words_of_the_house() {
    let instead = [
        ("ack", "settle"),
        ("nack", "settle"),
        ("dequeue", "claim"),
        ("fetch", "claim"),
        ("heartbeat", "renew"),
        ("extend_lease", "renew"),
        ("get", "the noun alone"),
    ];
    let mut broken = Vec::new();
    for file in rust_files().into_iter().filter(File::is_source) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let public = line.trim_start();
            let Some((_, name)) = public
                .starts_with("pub ")
                .then(|| public.split_once("fn "))
                .flatten()
            else {
                continue;
            };
            let name = name.split(['(', '<']).next().unwrap_or("");
            for (word, better) in instead {
                // `get` alone is what every map calls it.
                let alone = name == word && word != "get";
                if alone || name.starts_with(&format!("{word}_")) {
                    broken.push(format!("{}:{number}: {name}; say {better}", file.path));
                }
            }
        }
    }
    nothing_breaks("one word per concept", &broken);
}

#[test]
fn no_test_talks_to_a_server_it_was_not_told_about() {
    let well_known = [":54", "32"].concat();
    let broken: Vec<String> = rust_files()
        .iter()
        .flat_map(|file| (1..).zip(file.text.lines()).map(move |line| (file, line)))
        .filter(|(_, (_, line))| line.contains(&well_known))
        .map(|(file, (number, line))| format!("{}:{number}: {}", file.path, line.trim()))
        .collect();
    nothing_breaks(
        "DATABASE_URL or a throwaway server, never one that happens to listen",
        &broken,
    );
}

#[test]
fn every_test_named_in_the_documentation_exists() {
    let mut broken = Vec::new();
    let mut named = 0;
    for page in files("md") {
        for (path, test) in tests_named_in(&page.text) {
            named += 1;
            let Ok(text) = fs::read_to_string(root().join(path)) else {
                broken.push(format!("{}: there is no {path}", page.path));
                continue;
            };
            if !has_test(path, &text, test) {
                broken.push(format!("{}: {path} has no test {test}", page.path));
            }
        }
    }
    assert!(named > 50, "only {named} tests are named; were they read?");
    nothing_breaks("a promise is linked to tests that exist", &broken);
}

/// Where a property is a public function, and a macro makes a test of each.
const SUITES: [&str; 3] = [
    "outbox-testkit/src/conformance/",
    "outbox-testkit/src/runtime/",
    "tests/end_to_end/src/",
];

/// Whether the file has a test of this name: a property of a suite, or a function with a test's
/// attribute right above it.
fn has_test(path: &str, text: &str, test: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let named = |line: &str| {
        ['(', '<']
            .iter()
            .any(|next| line.contains(&format!("fn {test}{next}")))
    };
    lines.iter().enumerate().any(|(at, line)| {
        let above = &lines[at.saturating_sub(4)..at];
        let attribute = above
            .iter()
            .rev()
            .take_while(|line| !line.starts_with('}'))
            .any(|line| line.contains("#[test]") || line.contains("::test"));
        let property =
            SUITES.iter().any(|suite| path.starts_with(suite)) && line.starts_with("pub async fn");
        named(line) && (attribute || property)
    })
}

/// The tests in a text, written as `path/file.rs::test` between backticks.
fn tests_named_in(text: &str) -> Vec<(&str, &str)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once("::"))
        .filter(|(path, _)| path.ends_with(".rs"))
        .collect()
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut broken = Vec::new();
    for page in files("md") {
        let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
        for (at, _) in page.text.match_indices("](") {
            let rest = &page.text[at + 2..];
            let target = rest.split([')', ' ']).next().unwrap_or("");
            let file = target.split('#').next().unwrap_or("");
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if !root().join(folder).join(file).exists() {
                broken.push(format!("{}: {target}", page.path));
            }
        }
    }
    nothing_breaks("links to files are relative and lead to files", &broken);
}

#[test]
fn every_package_is_a_member_and_known_here() {
    let mut manifests: Vec<String> = files("toml")
        .into_iter()
        .map(|file| file.path)
        .filter(|path| path.ends_with("Cargo.toml") && !path.starts_with("benches/"))
        .map(|path| {
            path.trim_end_matches("Cargo.toml")
                .trim_end_matches('/')
                .to_owned()
        })
        .map(|path| {
            if path.is_empty() {
                ".".to_owned()
            } else {
                path
            }
        })
        .collect();
    manifests.sort();
    assert_eq!(
        manifests, PACKAGES,
        "a crate exists for a dependency or release reason: say which in ARCHITECTURE.md, then add it here"
    );
    let architecture = read("ARCHITECTURE.md");
    let broken: Vec<String> = PACKAGES
        .iter()
        .filter(|package| **package != "." && !architecture.contains(&format!("`{package}`")))
        .map(ToString::to_string)
        .collect();
    nothing_breaks("ARCHITECTURE.md says why each package exists", &broken);
}
