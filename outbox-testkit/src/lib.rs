//! outbox-testkit.
