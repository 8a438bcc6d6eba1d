//! outbox-macros.
