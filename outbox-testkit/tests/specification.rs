//! The documentation of `Storage` is the specification: it cites every property of the suite, and
//! none that does not exist.

use std::collections::BTreeSet;
use std::path::Path;

use outbox_testkit::conformance::PROPERTIES;

/// The ids in the documentation comments of a source, such as `FENCE-01`.
fn cited(source: &str) -> BTreeSet<String> {
    let comments = source.lines().map(str::trim_start);
    let comments = comments.filter(|line| line.starts_with("///") || line.starts_with("//!"));
    let words = comments.flat_map(|line| line.split(|c: char| c != '-' && !c.is_alphanumeric()));
    let is_id = |word: &&str| {
        word.split_once('-').is_some_and(|(group, number)| {
            let group = !group.is_empty() && group.chars().all(|c| c.is_ascii_uppercase());
            group && number.len() == 2 && number.chars().all(|c| c.is_ascii_digit())
        })
    };
    words.filter(is_id).map(str::to_owned).collect()
}

#[test]
fn the_documentation_of_the_trait_cites_every_property_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../outbox-core/src/storage.rs");
    let source = std::fs::read_to_string(path).expect("the trait is there");
    let ids: BTreeSet<_> = PROPERTIES
        .iter()
        .map(|property| property.id.to_owned())
        .collect();
    let cited = cited(&source);
    let absent: Vec<_> = cited.difference(&ids).collect();
    let uncited: Vec<_> = ids.difference(&cited).collect();
    assert!(absent.is_empty(), "cited, and not in the suite: {absent:?}");
    assert!(
        uncited.is_empty(),
        "in the suite, and not cited: {uncited:?}"
    );
}

#[test]
fn every_property_begins_its_documentation_with_its_id() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/conformance");
    let sources: String = std::fs::read_dir(folder)
        .expect("the suite is there")
        .map(|entry| std::fs::read_to_string(entry.expect("it is listed").path()))
        .map(|text| text.expect("sources are UTF-8"))
        .collect();
    for property in PROPERTIES {
        let function = format!("pub async fn {}(", property.name);
        let (before, _) = sources.split_once(&function).expect("it is a function");
        let comment: Vec<_> = before
            .lines()
            .rev()
            .take_while(|line| line.starts_with("///"))
            .collect();
        let first = comment.last().copied().unwrap_or_default();
        assert!(
            first.starts_with(&format!("/// {}: ", property.id)),
            "{property:?}: {first}"
        );
    }
}

#[test]
fn ids_are_found_in_documentation_and_nowhere_else() {
    let source = "//! (ABC-01)\n/// one (FENCE-01, UTF-8), x-02\nlet a = \"LEASE-01\"; // DEAD-01\n    /// DROP-06.";
    let expected = ["ABC-01", "DROP-06", "FENCE-01"].map(str::to_owned);
    assert_eq!(cited(source), BTreeSet::from(expected));
}
