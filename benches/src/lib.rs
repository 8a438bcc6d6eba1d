//! outbox-bench.
