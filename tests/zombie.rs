//! Former holders: whatever a worker writes after somebody else took its message changes nothing
//! and is reported, whether the worker was stopped, slow, or waited for a lock.

mod support;

use std::sync::Arc;
use std::time::Duration;

use outbox::postgres::PgStorage;
use outbox::{
    Claim, Context, Data, DeadReason, Event, Failure, LossPhase, Renewal, Report, Settlement,
    Source, Storage, Verdict, job,
};
use outbox_testkit::postgres::TestDatabase;
use sqlx::PgPool;
use support::process::{Assignment, Process, say, serve};
use support::{
    Running, claim, count, database, eventually, messages, run_until_idle, storage, text, within,
};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const SECOND: Duration = Duration::from_secs(1);
/// Everything the outbox knows, in one value.
const ALL: &str = "select md5(concat(
    (select string_agg(m::text, ',' order by id) from outbox.message as m), ';',
    (select string_agg(d::text, ',' order by message_id) from outbox.dead_letter as d)))";
const EXPIRED: &str = "not exists (select from outbox.message
    where acquired_token is null or lease_expires_at > clock_timestamp())";
/// An outside store that asks for the lease's fence: it refuses smaller ones.
const FENCED_EFFECT: &str = "insert into fenced (message_id, fence, worker) values ($1, $2, $3)
    on conflict (message_id) do update set fence = excluded.fence, worker = excluded.worker
    where fenced.fence < excluded.fence";

struct Holder {
    pool: PgPool,
    name: String,
    gate: Arc<Semaphore>,
}

impl Holder {
    async fn new(url: &str, name: &str, gate: Arc<Semaphore>) -> Self {
        Self {
            pool: PgPool::connect(url).await.expect("Postgres answers"),
            name: name.to_owned(),
            gate,
        }
    }
}

/// Waits at the gate, then has its effect.
#[job(queue = "slow", lease_ttl = "1s")]
async fn slow(_: (), context: Context, Data(holder): Data<Holder>) -> outbox::Result {
    say("started");
    let open = holder.gate.acquire().await?;
    sqlx::query(FENCED_EFFECT)
        .bind(context.message().id.0)
        .bind(i64::from(context.lease().fence()))
        .bind(&holder.name)
        .execute(&holder.pool)
        .await?;
    drop(open);
    Ok(())
}

/// The worker processes of this file.
#[test]
fn worker_process() {
    serve(|assignment| async move {
        match assignment.role.as_str() {
            "holder" => hold_without_a_worker(assignment).await,
            _ => work(assignment).await,
        }
    });
}

/// Claims, and writes with every verb when told to.
async fn hold_without_a_worker(mut assignment: Assignment) {
    let storage = PgStorage::connect(&assignment.url)
        .await
        .expect("Postgres answers");
    let held = claim(&storage, "slow", SECOND, Source::Pending).await;
    // The connections are there before the process is stopped.
    storage
        .renew(&renewals(&held))
        .await
        .expect("it is renewed");
    say(&format!("holds {}", held.messages.len()));
    assignment.told("write").await;
    let answer = storage.renew(&renewals(&held)).await.expect("it answers");
    say(&format!(
        "renewed {} lost {}",
        answer.renewed.len(),
        answer.lost.len()
    ));
    let settled = storage
        .settle(&each_verdict(&held))
        .await
        .expect("it answers")
        .written;
    say(&format!("settled {}", settled.len()));
}

/// A whole worker, which tells its losses and, when told to stop, its report.
async fn work(mut assignment: Assignment) {
    let gate = Arc::new(Semaphore::new(0));
    let holder = Holder::new(&assignment.url, &assignment.name, Arc::clone(&gate)).await;
    let storage = PgStorage::connect(&assignment.url)
        .await
        .expect("Postgres answers");
    let worker = outbox::tokio::worker(storage)
        .data(holder)
        .register::<slow>()
        .observe(|event| {
            if let Event::LeaseLost { message, .. } = event {
                say(&format!("lost {}", message.id));
            }
        });
    let running = Running::start(worker);
    assignment.told("go").await;
    gate.add_permits(100);
    assignment.told("stop").await;
    let report = running.stop().await;
    let Report {
        done,
        retried,
        released,
        lease_lost,
        ..
    } = report;
    say(&format!("report {done} {retried} {released} {lease_lost}"));
}

fn renewals(claim: &Claim) -> Vec<Renewal> {
    let renewal = |message: &outbox::Claimed| Renewal::new(message.held(), SECOND);
    claim.messages.iter().map(renewal).collect()
}

fn verdicts() -> [Verdict; 6] {
    let error = || "too late".to_owned();
    [
        Verdict::Done,
        Verdict::Discard,
        Verdict::Release,
        Verdict::Retry {
            after: SECOND,
            error: error(),
        },
        Verdict::Snooze { after: SECOND },
        Verdict::Dead {
            reason: DeadReason::Rejected,
            error: error(),
        },
    ]
}

fn each_verdict(claim: &Claim) -> Vec<Settlement> {
    assert_eq!(claim.messages.len(), verdicts().len());
    let settlement =
        |(message, verdict): (&outbox::Claimed, Verdict)| Settlement::new(message.held(), verdict);
    claim
        .messages
        .iter()
        .zip(verdicts())
        .map(settlement)
        .collect()
}

async fn enqueue(database: &TestDatabase, drafts: Vec<outbox::Draft>) {
    let mut connection = database.connect().await.expect("Postgres answers");
    let outbox = storage(database).await.outbox();
    outbox
        .enqueue_many(&mut connection, drafts)
        .await
        .expect("the messages are written");
}

async fn six(database: &TestDatabase) {
    enqueue(database, (0..6).map(|_| slow::job(())).collect()).await;
}

#[tokio::test]
async fn every_write_of_a_stopped_holder_changes_nothing_while_another_holds() {
    let database = database().await;
    six(&database).await;
    let mut stopped = Process::start("holder", "stopped", &database.url());
    assert_eq!(stopped.hear("holds").await, "6");
    stopped.signal("STOP");
    eventually(&database, EXPIRED).await;
    let second = storage(&database).await;
    let taken = claim(&second, "slow", SECOND * 60, Source::Expired).await;
    assert_eq!(taken.messages.len(), 6);
    let before = text(&database, ALL).await;
    stopped.tell("write");
    stopped.signal("CONT");
    assert_eq!(stopped.hear("renewed").await, "0 lost 6");
    assert_eq!(stopped.hear("settled").await, "0");
    assert_eq!(text(&database, ALL).await, before, "nothing changed");
    let settled = second.settle(&each_verdict(&taken)).await;
    assert_eq!(
        settled.expect("it answers").written.len(),
        6,
        "the second holder's are written"
    );
}

#[tokio::test]
async fn a_worker_that_was_stopped_reports_every_lease_and_keeps_no_effect() {
    let database = database().await;
    let table = "create table fenced (message_id bigint primary key, fence bigint, worker text)";
    database.execute(table).await.expect("the table is made");
    six(&database).await;
    let mut stopped = Process::start("worker", "stopped", &database.url());
    for _ in 0..6 {
        stopped.hear("started").await;
    }
    stopped.signal("STOP");
    eventually(&database, EXPIRED).await;
    let open = Arc::new(Semaphore::new(100));
    let second = Holder::new(&database.url(), "second", open).await;
    let worker = outbox::tokio::worker(storage(&database).await)
        .data(second)
        .register::<slow>();
    let report = run_until_idle(worker).await;
    assert_eq!((report.reclaimed, report.done), (6, 6));
    assert_eq!(messages(&database).await, 0);
    // Its handlers may now finish before it notices; neither way may anything be written.
    stopped.tell("go");
    stopped.signal("CONT");
    for _ in 0..6 {
        stopped.hear("lost").await;
    }
    stopped.tell("stop");
    assert_eq!(stopped.hear("report").await, "0 0 0 6");
    let kept = "select count(*) from fenced where worker = 'second' and fence = 2";
    assert_eq!(count(&database, kept).await, 6);
    assert_eq!(
        text(&database, ALL).await,
        text(&database, "select md5(';')").await
    );
}

/// What the handler of the tests below does when the gate opens.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum Does {
    Succeed,
    Retry,
    Snooze,
    Discard,
    Die,
    Wait,
}

/// A lease so long that no heartbeat notices anything during the test.
#[job(queue = "gated", lease_ttl = "1h")]
async fn gated(
    does: Does,
    Data(gate): Data<Semaphore>,
    Data(told): Data<UnboundedSender<String>>,
) -> outbox::Result {
    let _ = told.send("started".to_owned());
    let _open = gate.acquire().await?;
    match does {
        Does::Succeed => Ok(()),
        Does::Retry => Err(Failure::retry("again")),
        Does::Snooze => Err(Failure::snooze(SECOND)),
        Does::Discard => Err(Failure::discard("unwanted")),
        Does::Die => Err(Failure::dead("hopeless")),
        Does::Wait => std::future::pending().await,
    }
}

/// What another worker's reclaim writes, held open so that the test decides when it commits.
const RECLAIM: &str = "update outbox.message set acquired_token = gen_random_uuid(),
    lease_losses = lease_losses + 1, deliveries = deliveries + 1";

#[tokio::test]
async fn a_settle_that_waits_while_a_reclaim_commits_is_refused_and_reported() {
    for does in [
        Does::Succeed,
        Does::Retry,
        Does::Snooze,
        Does::Discard,
        Does::Die,
        Does::Wait,
    ] {
        let database = database().await;
        enqueue(&database, vec![gated::job(does)]).await;
        let gate = Arc::new(Semaphore::new(0));
        let (teller, mut told) = unbounded_channel();
        let events = teller.clone();
        let worker = outbox::tokio::worker(storage(&database).await)
            .shared_data(Arc::clone(&gate))
            .data(teller)
            .register::<gated>()
            // The one that waits is cancelled at the shutdown, and released.
            .grace(Duration::ZERO)
            .observe(move |event| match event {
                Event::LeaseLost {
                    phase: LossPhase::Settle,
                    ..
                } => drop(events.send("lost".to_owned())),
                Event::Settled { .. } => drop(events.send("settled".to_owned())),
                _ => {}
            });
        let running = Running::start(worker);
        assert_eq!(
            within("it runs", told.recv()).await.as_deref(),
            Some("started")
        );
        let mut other = database.connect().await.expect("Postgres answers");
        let begin = format!("begin; {RECLAIM}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(begin))
            .execute(&mut other)
            .await
            .expect("it is locked");
        gate.add_permits(1);
        if does == Does::Wait {
            running.handle.shutdown();
        }
        let blocked = database.wait_until_blocked("%").await;
        blocked.expect("the settle waits for the lock");
        sqlx::raw_sql("commit")
            .execute(&mut other)
            .await
            .expect("it commits");
        assert_eq!(
            within("it is refused", told.recv()).await.as_deref(),
            Some("lost"),
            "{does:?}"
        );
        let report = running.stop().await;
        assert_eq!(
            (report.lease_lost, report.fenced_writes),
            (1, 1),
            "{does:?}"
        );
        let Report {
            done,
            retried,
            snoozed,
            discarded,
            dead,
            released,
            ..
        } = report;
        assert_eq!(
            done + retried + snoozed + discarded + dead + released,
            0,
            "{does:?}"
        );
        let stolen = "select count(*) from outbox.message where acquired_token is not null
            and lease_losses = 1 and deliveries = 2 and attempts = 1 and last_error is null";
        assert_eq!(count(&database, stolen).await, 1, "{does:?}");
        assert_eq!(support::dead_letters(&database).await, 0, "{does:?}");
    }
}

#[tokio::test]
async fn a_renewal_after_a_reclaim_is_refused_counted_and_cancels_the_handler() {
    let database = database().await;
    six(&database).await;
    let (teller, mut told) = unbounded_channel();
    let holder = Holder::new(&database.url(), "first", Arc::new(Semaphore::new(0))).await;
    let started = teller.clone();
    let worker = outbox::tokio::worker(storage(&database).await)
        .data(holder)
        .register::<slow>()
        .observe(move |event| match event {
            Event::Started(_) => drop(started.send("started")),
            Event::LeaseLost {
                phase: LossPhase::Held,
                ..
            } => drop(teller.send("lost")),
            _ => {}
        });
    let running = Running::start(worker);
    for _ in 0..6 {
        assert_eq!(within("they run", told.recv()).await, Some("started"));
    }
    let reclaim = format!("{RECLAIM}, lease_expires_at = now() + interval '1 hour'");
    assert_eq!(database.execute(&reclaim).await.expect("they are taken"), 6);
    for _ in 0..6 {
        assert_eq!(within("it notices", told.recv()).await, Some("lost"));
    }
    // A drain that ended late would mean that the handlers still wait at the gate.
    let report = running.stop().await;
    assert_eq!(
        (report.lease_lost, report.fenced_writes, report.released),
        (6, 6, 0)
    );
    let stolen = "select count(*) from outbox.message where deliveries = 2";
    assert_eq!(count(&database, stolen).await, 6);
}
