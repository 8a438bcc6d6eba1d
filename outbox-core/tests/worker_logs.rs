//! What a worker logs: lost leases with fields to search for, and never a payload.

mod support;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_core::{Failure, IntoOutcome, Outcome, Source};
use support::{Rig, SECOND, draft};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps every event of the worker as one line: level, message, fields.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn all(&self) -> Vec<String> {
        self.0.lock().expect("no test panics here").clone()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).expect("a String takes everything");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("no test panics here").push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_lost_lease_is_logged_once_in_either_phase_with_its_fields() {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        let rig = Rig::new();
        rig.enqueue_plain(1);
        let worker = rig.worker(|_| std::future::pending());
        rig.start(worker);
        rig.pass(SECOND);
        rig.memory().expire_leases();
        assert_eq!(rig.steal(Source::Expired).len(), 1);
        rig.pass(SECOND * 10);
        rig.sim.kill_spawned();

        let rig = Rig::new();
        rig.enqueue_plain(1);
        let sim = rig.sim.clone();
        rig.start(rig.worker(move |_| {
            use outbox_core::Runtime;
            let sim = sim.clone();
            async move {
                sim.sleep(SECOND * 5).await;
                Outcome::Done
            }
        }));
        rig.pass(SECOND);
        rig.memory().expire_leases();
        assert_eq!(rig.steal(Source::Expired).len(), 1);
        rig.pass(SECOND * 5);
    });
    let lost: Vec<_> = lines
        .all()
        .into_iter()
        .filter(|line| line.contains("lease lost"))
        .collect();
    assert_eq!(
        lost,
        [
            r#"WARN message=lease lost id=1 queue="q" kind="k" attempt=1 phase=Held"#,
            r#"WARN message=lease lost id=1 queue="q" kind="k" attempt=1 phase=Settle"#,
        ]
    );
}

#[test]
fn no_line_holds_a_payload() {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        let rig = Rig::new();
        for kind in ["k", "unknown"] {
            rig.enqueue(outbox_core::Draft::json("q", kind, "canary-4711").max_attempts(1));
        }
        rig.enqueue(draft(0));
        let worker = rig.worker(|context| async move {
            match context.decode::<usize>() {
                Ok(_) => Failure::dead("rejected").into_outcome(),
                Err(failure) => failure.into_outcome(),
            }
        });
        rig.run_for(worker, Duration::from_secs(2));
        assert_eq!(rig.memory().dead_letters().len(), 2);
    });
    let lines = lines.all();
    assert!(lines.iter().any(|line| line.contains("dead letter")));
    assert!(
        lines.iter().all(|line| !line.contains("canary-4711")),
        "{lines:?}"
    );
}
