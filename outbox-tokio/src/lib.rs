//! outbox-tokio.
