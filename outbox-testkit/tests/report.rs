//! The report of a run says what was kept, declined and broken, and the published page is what the
//! runs found.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{Cancel, MessageId, Runtime, Storage};
use outbox_testkit::SimRuntime;
use outbox_testkit::conformance::{
    Capability, DeadLetterState, Finding, MemorySubject, MessageState, Report, Subject,
};

const AGAIN: &str = "cargo run -p outbox-testkit --example report -- memory";

/// A storage without hints, and with an operator's tool that cancels nothing.
struct Lesser(MemorySubject);

#[async_trait]
impl Subject for Lesser {
    fn storage(&self) -> Arc<dyn Storage> {
        self.0.storage()
    }
    fn runtime(&self) -> Arc<dyn Runtime> {
        self.0.runtime()
    }
    async fn expire_leases(&self) {
        self.0.expire_leases().await;
    }
    async fn make_due(&self) {
        self.0.make_due().await;
    }
    async fn state(&self, id: MessageId) -> Option<MessageState> {
        self.0.state(id).await
    }
    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        self.0.dead_letters().await
    }
    fn declines(&self) -> &[Capability] {
        &[Capability::WakeUps]
    }
    async fn cancel(&self, _: MessageId) -> Cancel {
        Cancel::NotFound
    }
}

fn report_on<S: Subject>(storage: &str, subject: fn() -> S) -> Report {
    Report::run(storage, "simulated", |property| {
        SimRuntime::new(1).block_on(async { property.check_unless_declined(&subject()).await })
    })
}

fn memory() -> Report {
    report_on("memory", MemorySubject::new).by(AGAIN)
}

fn lesser() -> Report {
    report_on("lesser", || Lesser(MemorySubject::new()))
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn the_published_page_is_what_the_runs_found() {
    let published = memory().is_published(&docs());
    assert!(published.expect("they can be read"), "stale: run `{AGAIN}`");
}

#[test]
fn what_is_published_is_recognised_until_somebody_edits_it() {
    let docs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("what_is_published");
    // What an earlier run of this test left.
    let _ = fs::remove_dir_all(&docs);
    let (lesser, memory) = (lesser(), memory());
    let is_published = |report: &Report| report.is_published(&docs).expect("it can be read");
    assert!(!is_published(&memory), "there is nothing yet");

    memory.publish(&docs).expect("it can be written");
    assert!(is_published(&memory));
    lesser.publish(&docs).expect("it can be written");
    assert!(is_published(&memory) && is_published(&lesser));

    for (file, from, to) in [
        ("conformance.md", "| FENCE-01 |", "| FENCE-1 |"),
        ("conformance/memory.json", "simulated", "imagined"),
        ("conformance/memory.json", "ids grow", "ids shrink"),
        ("conformance/memory.json", "{", "no longer JSON: {"),
    ] {
        let file = docs.join(file);
        let text = fs::read_to_string(&file).expect("it was published");
        assert!(text.contains(from), "{text}");
        fs::write(&file, text.replace(from, to)).expect("it can be written");
        assert!(!is_published(&memory), "{from} is {to}");
        memory.publish(&docs).expect("it can be written");
        assert!(is_published(&memory) && is_published(&lesser));
    }

    let other = docs.join("conformance/lesser.json");
    fs::write(other, "{}").expect("it can be written");
    let refused = memory.is_published(&docs).expect_err("lesser is no report");
    assert!(refused.to_string().contains("lesser.json is no report"));
}

#[test]
fn every_property_is_kept_declined_or_broken_by_name() {
    let report = lesser();
    let declined = |capability: &str| Some(Finding::Declined(capability.to_owned()));
    assert_eq!(report.finding("WAKE-01").cloned(), declined("wake-ups"));
    assert_eq!(report.finding("WAKE-02").cloned(), declined("wake-ups"));
    assert_eq!(report.finding("WAKE-03"), Some(&Finding::Kept));
    assert_eq!(report.finding("WAKE-99"), None);
    let broken: Vec<_> = report.broken().map(|(id, _)| id).collect();
    // What is not implemented and not declined is broken, and says what to do.
    let expected = [
        "INSERT-12",
        "CANCEL-01",
        "CANCEL-02",
        "CANCEL-03",
        "CANCEL-04",
        "CANCEL-05",
    ];
    assert_eq!(broken, expected);
    let (_, how) = report.broken().next().expect("INSERT-12 is broken");
    assert!(how.contains("decline Capability::Transactions"), "{how}");
}

#[test]
fn a_report_survives_being_written_and_read() {
    let report = lesser();
    assert_eq!(Report::from_json(&report.to_json()), Some(report));
    assert_eq!(Report::from_json("{}"), None);
    assert_eq!(Report::from_json("not JSON"), None);
}

#[test]
fn the_page_has_a_column_for_each_storage() {
    let page = Report::page(&[lesser(), memory()]);
    let line = |beginning: &str| {
        let line = page.lines().find(|line| line.starts_with(beginning));
        line.unwrap_or_else(|| panic!("no line begins with {beginning}:\n{page}"))
    };
    assert_eq!(line("| id "), "| id | rule | lesser | memory |");
    assert!(line("| WAKE-01 ").ends_with("| *declined*: wake-ups | kept |"));
    assert!(line("| CANCEL-02 ").ends_with("| **broken** | kept |"));
    assert!(line("| INSERT-12 ").ends_with("| **broken** | *declined*: transactions |"));
    assert!(line("| lesser ").ends_with("| 2 | 6 |"), "{page}");
    // The command of each, where there is one.
    let commands: Vec<_> = page.lines().filter(|line| line.starts_with("$ ")).collect();
    assert_eq!(commands, [format!("$ {AGAIN}")]);
}
