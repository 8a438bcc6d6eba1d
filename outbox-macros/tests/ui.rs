//! What users see: one file for each mistake, with the compiler's answer beside it.
//!
//! After a deliberate change run `TRYBUILD=overwrite cargo test -p outbox-macros --test ui`, and
//! read what changed.

#[test]
fn every_mistake_has_its_own_message() {
    trybuild::TestCases::new().compile_fail("tests/ui/fail/*.rs");
}

#[test]
fn what_is_documented_compiles_without_warnings() {
    trybuild::TestCases::new().pass("tests/ui/pass/*.rs");
}
