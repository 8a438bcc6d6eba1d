//! `MemoryStorage` keeps every rule of the conformance suite, on the simulated runtime.

use std::collections::BTreeSet;

use outbox_testkit::SimRuntime;
use outbox_testkit::conformance::{Capability, Checked, MemorySubject, PROPERTIES, Property};

outbox_testkit::conformance_suite!(MemorySubject::new(), block_on = block_on);

fn block_on<F: Future>(future: F) -> F::Output {
    SimRuntime::new(1).block_on(future)
}

#[test]
fn ids_and_names_of_properties_are_unique() {
    let ids: BTreeSet<_> = PROPERTIES.iter().map(|property| property.id).collect();
    let names: BTreeSet<_> = PROPERTIES.iter().map(|property| property.name).collect();
    assert_eq!(ids.len(), PROPERTIES.len());
    assert_eq!(names.len(), PROPERTIES.len());
}

#[test]
fn a_listed_property_can_be_checked_without_the_macro() {
    let check = |id| {
        let property = Property::find(id).expect("it is in the list");
        block_on(async { property.check_unless_declined(&MemorySubject::new()).await })
    };
    assert_eq!(check("FENCE-01"), Checked::Kept);
    let declined = Checked::Declined(Capability::Transactions);
    assert_eq!(check("INSERT-12"), declined);
}
