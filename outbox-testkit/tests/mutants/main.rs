//! The suite is tested by storages that are wrong on purpose: each mutant is caught by exactly the
//! properties named for it, and each property catches a mutant that no other one does. A property
//! that could be left out, and a rule that nothing checks, fail here.

mod claim;
mod model;
mod settle;
mod state;
mod storage;
mod subject;
mod table;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::thread;

use outbox_testkit::SimRuntime;
use outbox_testkit::conformance::{PROPERTIES, Property};
use subject::MutantSubject;
use table::{DEFECTS, Defect};

/// The ids of the properties that catch each defect, in the order of [`DEFECTS`].
static CAUGHT: LazyLock<Vec<Vec<&str>>> = LazyLock::new(|| {
    let half = |defects: &'static [(Defect, &[&str])]| {
        move || -> Vec<_> {
            let caught = |(defect, _): &_| catching(Some(*defect));
            defects.iter().map(caught).collect()
        }
    };
    let (first, second) = DEFECTS.split_at(DEFECTS.len() / 2);
    let first = thread::spawn(half(first));
    let second = half(second)();
    let mut caught = first.join().expect("defects are caught where they panic");
    caught.extend(second);
    caught
});

fn catching(defect: Option<Defect>) -> Vec<&'static str> {
    let breaks = |property: &&Property| {
        let check = || {
            SimRuntime::new(1).block_on(async {
                (property.check)(&MutantSubject::new(defect)).await;
            });
        };
        catch_unwind(AssertUnwindSafe(check)).is_err()
    };
    let caught = PROPERTIES.iter().filter(breaks);
    caught.map(|property| property.id).collect()
}

#[test]
fn a_storage_without_a_defect_keeps_every_property() {
    assert_eq!(catching(None), [""; 0]);
}

#[test]
fn every_mutant_is_caught_by_the_properties_named_for_it() {
    let mut wrong = Vec::new();
    for ((defect, named), caught) in DEFECTS.iter().zip(CAUGHT.iter()) {
        if caught != named {
            wrong.push(format!(
                "{defect:?}: {named:?} are named, {caught:?} catch it"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn without_any_one_property_a_mutant_survives() {
    let needed: BTreeSet<_> = CAUGHT
        .iter()
        .filter_map(|caught| match &caught[..] {
            [only] => Some(*only),
            _ => None,
        })
        .collect();
    let idle: Vec<_> = PROPERTIES
        .iter()
        .filter(|property| !needed.contains(property.id))
        .map(|property| format!("{property:?}"))
        .collect();
    assert!(
        idle.is_empty(),
        "these can be left out and every mutant is still caught; give each a mutant that only it \
         catches, or merge it into another:\n{}",
        idle.join("\n")
    );
}
