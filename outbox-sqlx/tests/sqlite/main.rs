//! What only SQLite can get wrong: its one write lock, its clock, its plans, its file and its schema.
//! The rules that every storage keeps are in the conformance suite.
#![allow(clippy::unwrap_used)]

mod connecting;
mod dead_letters;
mod dropped_futures;
mod enqueue;
mod foreign_rows;
mod leases;
mod locks;
mod plans;
mod schema;
mod support;
mod wake_ups;
