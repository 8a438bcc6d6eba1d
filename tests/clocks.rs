//! One clock: due times, retries and leases are the database's, however wrong the clock of the
//! worker and its producer is.
//!
//! The clock of the worker's runtime is off everywhere; the clock of a whole process is set by
//! `faketime`, and only where that is installed.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outbox::postgres::{PgOutbox, PgStorage};
use outbox::tokio::TokioRuntime;
use outbox::{
    Attempt, BoxFuture, Data, Failure, Lease, MessageId, Report, Runtime, Source, Worker, job,
};
use outbox_testkit::postgres::TestDatabase;
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, PgPool};
use support::process::{Process, say, serve};
use support::{count, database, dead_letters, effect, messages, storage, within};

const SECOND: Duration = Duration::from_secs(1);
/// How far clocks are off, in seconds: ten minutes and five hours, both ways.
const OFFSETS: [i64; 4] = [600, -600, 5 * 3600, -5 * 3600];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum What {
    Retried,
    Snoozed,
    Delayed,
    Long,
    Orphaned,
}

/// Leaves an effect at the start of each run, timed by the database.
#[job(queue = "clock", lease_ttl = "1s")]
async fn tick(
    what: What,
    id: MessageId,
    attempt: Attempt,
    lease: Lease,
    Data(pool): Data<PgPool>,
) -> outbox::Result {
    effect(&pool, id.0, attempt.number, "clock").await?;
    match what {
        What::Retried if attempt.number == 1 => Err(Failure::retry_in(SECOND, "not yet")),
        What::Snoozed if lease.fence() == 1 => Err(Failure::snooze(SECOND)),
        What::Long => {
            // Two leases and a half, by the database's clock.
            sqlx::query("select pg_sleep(2.5)").execute(&*pool).await?;
            Ok(())
        }
        What::Retried | What::Snoozed | What::Delayed | What::Orphaned => Ok(()),
    }
}

/// A runtime whose present time is off by so many seconds.
struct SkewedRuntime {
    real: TokioRuntime,
    offset: i64,
}

impl Runtime for SkewedRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.real.spawn(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.real.sleep(duration)
    }

    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.real.spawn_thread(name, task)
    }

    fn now(&self) -> Instant {
        let by = Duration::from_secs(self.offset.unsigned_abs());
        let now = self.real.now();
        let skewed = if self.offset > 0 {
            now.checked_add(by)
        } else {
            now.checked_sub(by)
        };
        skewed.expect("instants are signed")
    }
}

async fn enqueue(url: &str) {
    let mut connection = PgConnection::connect(url).await.expect("Postgres answers");
    let drafts = [
        tick::job(What::Retried),
        tick::job(What::Snoozed),
        tick::job(What::Delayed).after(SECOND),
        tick::job(What::Long),
        tick::job(What::Orphaned).priority(-1),
    ];
    let outbox = PgOutbox::new();
    let written = outbox.enqueue_many(&mut connection, drafts).await;
    assert_eq!(written.expect("they are written").len(), 5);
}

/// Notes what was written, and leaves one message with a holder that is gone.
async fn note_and_orphan(database: &TestDatabase) {
    let due = "select count(*) from outbox.message
        where next_attempt_at - created_at - case payload when '\"Delayed\"' then interval '1 s'
            else interval '0 s' end between '0 s' and '900 ms'
        and created_at between now() - interval '30 s' and now()";
    assert_eq!(count(database, due).await, 5, "times are of the database");
    let gone = storage(database).await;
    let request = {
        let mut request = support::request("clock", SECOND, Source::Pending);
        request.limit = 1;
        request
    };
    let held = outbox::Storage::claim(&gone, &request)
        .await
        .expect("it answers");
    assert_eq!(held.messages.len(), 1);
    let note = "create table noted as select id, convert_from(payload, 'UTF8') as what,
        next_attempt_at, lease_expires_at from outbox.message";
    database.execute(note).await.expect("it is noted");
}

/// Delays are a second, so that a horizon of ten waits for all of them.
async fn run(worker: Worker, url: &str) -> Report {
    let pool = PgPool::connect(url).await.expect("Postgres answers");
    let worker = worker.data(pool).register::<tick>();
    within("the worker is idle", worker.run_until_idle(SECOND * 10))
        .await
        .expect("the worker ends well")
}

/// What must be in `effect`, by the database's clock, whatever the worker's said.
async fn check(database: &TestDatabase, offset: i64) {
    assert_eq!(messages(database).await, 0, "off by {offset} s");
    assert_eq!(dead_letters(database).await, 0, "off by {offset} s");
    // A condition on the first run or on the time between two, with room for a loaded machine.
    let runs = "select count(*) from (
            select what, noted.next_attempt_at as due, noted.lease_expires_at as lease_end,
                min(started_at) as first, max(started_at) as last, count(*) as runs
            from noted join effect on message_id = id group by 1, 2, 3) as run
        where ";
    for condition in [
        "what = '\"Retried\"' and runs = 2 and last - first between '1 s' and '10 s'",
        "what = '\"Snoozed\"' and runs = 2 and last - first between '1 s' and '10 s'",
        "what = '\"Delayed\"' and runs = 1 and first - due between '0 s' and '10 s'",
        "what = '\"Long\"' and runs = 1 and first - due between '0 s' and '20 s'",
        "what = '\"Orphaned\"' and runs = 1 and first - lease_end between '0 s' and '10 s'",
    ] {
        let found = count(database, &format!("{runs}{condition}")).await;
        assert_eq!(found, 1, "off by {offset} s: {condition}");
    }
}

/// Returns its database, which is to be dropped when the others are done as well: that blocks this
/// thread until the server has heard from every session, also from one that another future of the
/// same thread is opening.
async fn with_the_runtimes_clock(offset: i64) -> TestDatabase {
    let database = database().await;
    enqueue(&database.url()).await;
    note_and_orphan(&database).await;
    let runtime = SkewedRuntime {
        real: TokioRuntime::current(),
        offset,
    };
    let storage = Arc::new(storage(&database).await);
    let report = run(Worker::new(storage, Arc::new(runtime)), &database.url()).await;
    assert_eq!((report.done, report.retried, report.snoozed), (5, 1, 1));
    assert_eq!((report.reclaimed, report.lease_lost), (1, 0));
    check(&database, offset).await;
    database
}

#[tokio::test]
async fn a_worker_whose_clock_is_minutes_or_hours_off_keeps_the_databases_time() {
    let [a, b, c, d] = OFFSETS.map(with_the_runtimes_clock);
    drop(tokio::join!(a, b, c, d));
}

/// The worker processes of this file.
#[test]
fn worker_process() {
    serve(|mut assignment| async move {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        say(&format!(
            "clock {}",
            now.expect("it is after 1970").as_secs()
        ));
        enqueue(&assignment.url).await;
        say("enqueued");
        assignment.told("go").await;
        let storage = PgStorage::connect(&assignment.url)
            .await
            .expect("Postgres answers");
        let report = run(outbox::tokio::worker(storage), &assignment.url).await;
        let Report {
            done,
            retried,
            snoozed,
            reclaimed,
            lease_lost,
            ..
        } = report;
        say(&format!(
            "report {done} {retried} {snoozed} {reclaimed} {lease_lost}"
        ));
    });
}

fn faketime_is_installed() -> bool {
    let asked = Command::new("faketime").arg("--version").output();
    asked.is_ok_and(|output| output.status.success())
}

/// A worker process whose wall clock is off.
fn under_faketime(offset: i64, url: &str) -> Process {
    let mut faketime = Command::new("faketime");
    // Only the wall clock: the monotonic one has no meaning between machines, and std waits by
    // system calls that the library does not see.
    faketime
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .args(["-m", "-f", &format!("{offset:+}s")]);
    Process::start_under(faketime, "clock", "faked", url)
}

/// Returns its database, as above.
async fn with_the_processs_clock(offset: i64) -> TestDatabase {
    let database = database().await;
    let mut faked = under_faketime(offset, &database.url());
    let told: i64 = faked.hear("clock").await.parse().expect("it is a number");
    let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let here = here.expect("it is after 1970").as_secs().cast_signed();
    let off = told - here;
    assert!(
        (offset - 60..=offset + 60).contains(&off),
        "its clock is off by {off} s, not by {offset}"
    );
    faked.hear("enqueued").await;
    note_and_orphan(&database).await;
    faked.tell("go");
    assert_eq!(faked.hear("report").await, "5 1 1 1 0");
    check(&database, offset).await;
    database
}

#[allow(
    clippy::print_stderr,
    reason = "whoever reads the log must see what was not tested"
)]
fn note(line: &str) {
    eprintln!("{line}");
}

#[tokio::test]
async fn a_process_whose_clock_is_minutes_or_hours_off_keeps_the_databases_time() {
    if !faketime_is_installed() {
        note(
            "faketime is not installed (Debian: apt-get install faketime): only the clock of the worker's runtime is tested",
        );
        return;
    }
    let [a, b, c, d] = OFFSETS.map(with_the_processs_clock);
    drop(tokio::join!(a, b, c, d));
}
