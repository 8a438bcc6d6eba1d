//! Behaviours of docs/behaviours.md that no test closer to the code proves, on Postgres and through
//! the facade.

mod support;

use std::sync::Arc;
use std::time::Duration;

use outbox::postgres::{PgOutbox, PgStorage, Revived};
use outbox::prelude::*;
use outbox::{DeadReason, ErrorKind, Event, Health, Renewal, Settlement, Source, Storage, Verdict};
use outbox_testkit::postgres::TestDatabase;
use support::{
    Running, claim, count, database, dead_letters, eventually, messages, run_until_idle, storage,
    text, within,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const SECOND: Duration = Duration::from_secs(1);
/// Our own sessions; what the fixture opens has another name.
const OURS: &str = "from pg_stat_activity
    where datname = current_database() and application_name = 'outbox'";

/// What handlers tell the test.
type Teller = UnboundedSender<()>;

/// Waits at the gate under a lease that no heartbeat looks at during a test.
#[job(queue = "gate", lease_ttl = "1h")]
async fn wait(_: (), Data(told): Data<Teller>, Data(gate): Data<Semaphore>) -> outbox::Result {
    told.send(())?;
    gate.acquire().await?.forget();
    Ok(())
}

/// The same under a lease that is renewed three times a second.
#[job(queue = "gate", lease_ttl = "1s")]
async fn renew(_: (), Data(told): Data<Teller>, Data(gate): Data<Semaphore>) -> outbox::Result {
    told.send(())?;
    gate.acquire().await?.forget();
    Ok(())
}

/// A worker with the gate closed.
async fn gated(database: &TestDatabase) -> (outbox::Worker, Arc<Semaphore>, UnboundedReceiver<()>) {
    let (teller, told) = unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let worker = outbox::tokio::worker(storage(database).await)
        .data::<Teller>(teller)
        .shared_data(Arc::clone(&gate));
    (worker, gate, told)
}

async fn enqueue(database: &TestDatabase, drafts: Vec<Draft>) {
    let mut connection = database.connect().await.expect("Postgres answers");
    let written = PgOutbox::new().enqueue_many(&mut connection, drafts).await;
    written.expect("they are written");
}

async fn all_run(told: &mut UnboundedReceiver<()>, count: usize) {
    for _ in 0..count {
        within("they all run", told.recv()).await.expect("told");
    }
}

#[tokio::test]
async fn calls_about_nothing_send_nothing() {
    // A closed port: whatever was sent would be an error.
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = closed.local_addr().expect("it is bound").port();
    drop(closed);
    let url = format!("postgres://nobody@127.0.0.1:{port}/nothing");
    let storage = PgStorage::options()
        .prepare(url.parse().expect("a URL"))
        .expect("it does not connect");
    assert_eq!(storage.settle(&[]).await.expect("nothing").written, []);
    assert_eq!(storage.renew(&[]).await.expect("nothing").renewed, []);
    assert_eq!(storage.enqueue(Vec::new()).await.expect("nothing"), []);
    assert!(storage.check().await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_lease_lost_within_a_batch_costs_that_message_and_no_other() {
    let database = database().await;
    enqueue(&database, (0..5).map(|_| wait::job(())).collect()).await;
    let (worker, gate, mut told) = gated(&database).await;
    let running = Running::start(worker.register::<wait>());
    all_run(&mut told, 5).await;
    // What another worker's reclaim writes about the third.
    let stolen = "update outbox.message
        set acquired_token = gen_random_uuid(), lease_losses = 1, deliveries = 2
        where id = (select id from outbox.message order by id offset 2 limit 1)";
    assert_eq!(database.execute(stolen).await.expect("it is taken"), 1);
    gate.add_permits(5);
    eventually(&database, "(select count(*) from outbox.message) = 1").await;
    let report = running.stop().await;
    assert_eq!(
        (report.done, report.lease_lost, report.fenced_writes),
        (4, 1, 1)
    );
    let kept = "select count(*) from outbox.message
        where acquired_token is not null and lease_losses = 1 and deliveries = 2 and attempts = 1";
    assert_eq!(count(&database, kept).await, 1);
}

#[tokio::test]
async fn a_worker_holds_four_connections_however_many_handlers_run() {
    let database = database().await;
    enqueue(&database, (0..200).map(|_| renew::job(())).collect()).await;
    let (worker, gate, mut told) = gated(&database).await;
    let running = Running::start(worker.concurrency(200).register::<renew>());
    all_run(&mut told, 200).await;
    // The one for renewals is opened by the first of them.
    eventually(&database, &format!("(select count(*) {OURS}) = 3")).await;
    gate.add_permits(200);
    eventually(&database, "not exists (select from outbox.message)").await;
    // And the second one for outcomes, if there was enough to say.
    let open = count(&database, &format!("select count(*) {OURS}")).await;
    assert!((3..=4).contains(&open), "{open}");
    assert_eq!(running.stop().await.done, 200);
}

#[tokio::test]
async fn a_drain_goes_on_with_the_connections_that_are_there() {
    let database = database().await;
    enqueue(&database, vec![renew::job(())]).await;
    let (worker, gate, mut told) = gated(&database).await;
    let running = Running::start(worker.register::<renew>());
    all_run(&mut told, 1).await;
    eventually(&database, &format!("(select count(*) {OURS}) = 3")).await;
    let sessions = format!("select string_agg(pid::text, ',' order by pid) {OURS}");
    let before = text(&database, &sessions).await;
    running.handle.shutdown();
    let draining = async {
        while running.handle.health() != Health::Draining {
            tokio::task::yield_now().await;
        }
    };
    within("it drains", draining).await;
    let end = "select max(lease_expires_at)::text from outbox.message";
    let end = text(&database, end).await;
    // Renewed while it drains.
    eventually(
        &database,
        &format!("exists (select from outbox.message where lease_expires_at > '{end}')"),
    )
    .await;
    assert_eq!(text(&database, &sessions).await, before);
    gate.add_permits(1);
    let report = running.stop().await;
    assert_eq!((report.done, report.released), (1, 0));
}

/// Gives up three tenths of a second after its message was enqueued.
#[job(queue = "stubborn", max_attempts = 30_000, retry = RetryPolicy::custom(|failed| {
    (failed.age < Duration::from_millis(300)).then_some(Duration::ZERO)
}))]
async fn insist(_: ()) -> outbox::Result {
    Err(Failure::retry("no"))
}

#[tokio::test]
async fn a_policy_may_limit_the_total_time() {
    let database = database().await;
    enqueue(&database, vec![insist::job(())]).await;
    let worker = outbox::tokio::worker(storage(&database).await).register::<insist>();
    let report = run_until_idle(worker).await;
    assert_eq!(report.dead, 1);
    let given_up = "select count(*) from outbox.dead_letter where reason = 'exhausted'
        and attempts < 30000 and died_at >= created_at + interval '300 ms'";
    assert_eq!(count(&database, given_up).await, 1);
}

#[tokio::test]
async fn many_messages_are_one_statement_for_each_five_thousand_and_seen_together() {
    let database = database().await;
    let counting = "create table statement (messages bigint);
        create function count_statement() returns trigger language plpgsql as $$
        begin
            insert into statement select count(*) from written;
            return null;
        end $$;
        create trigger count_statement after insert on outbox.message
            referencing new table as written
            for each statement execute function count_statement()";
    database.execute(counting).await.expect("it is made");
    let pool = database.pool(1).await.expect("Postgres answers");
    let mut tx = pool.begin().await.expect("it begins");
    let drafts = (0..12_001).map(|_| wait::job(()));
    let written = PgOutbox::new().enqueue_many(&mut tx, drafts).await;
    assert_eq!(written.expect("they are written").len(), 12_001);
    assert_eq!(messages(&database).await, 0, "none before all are there");
    tx.commit().await.expect("it commits");
    assert_eq!(messages(&database).await, 12_001);
    let sizes = "select string_agg(messages::text, ' ' order by messages desc) from statement";
    assert_eq!(text(&database, sizes).await, "5000 5000 2001");
}

#[tokio::test]
async fn a_dead_letter_has_every_column_of_its_message_and_gives_them_back() {
    let database = database().await;
    let full = Draft::bytes("full", "everything", b"\0\xff".to_vec())
        .header("name", "value")
        .priority(-3)
        .key("key")
        .group("group")
        .tag("tag")
        .max_attempts(7);
    enqueue(&database, vec![full]).await;
    let storage = storage(&database).await;
    let held = claim(&storage, "full", SECOND * 60, Source::Pending).await;
    let message = &held.messages[0];
    let before = "create table before as select * from outbox.message";
    database.execute(before).await.expect("it is kept");
    let verdict = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: "no".to_owned(),
    };
    let settled = storage
        .settle(&[Settlement::new(message.held(), verdict)])
        .await;
    assert_eq!(settled.expect("it answers").written, [message.id]);
    let same = "select count(*) from before join outbox.dead_letter as d on message_id = id
        where to_jsonb(before) - '{id, next_attempt_at, acquired_token, acquired_at,
            lease_expires_at, last_error}'::text[]
        = to_jsonb(d) - '{message_id, died_at, reason, last_error}'::text[]
        and d.last_error = 'no' and d.reason = 'rejected'";
    assert_eq!(count(&database, same).await, 1);
    let revived = storage.revive(message.id).await.expect("it answers");
    assert_eq!(revived, Revived::Revived);
    // The attempts begin anew; the lease and the due time are not what they were.
    let same = "select count(*) from before join outbox.message as m using (id)
        where to_jsonb(before) - '{attempts, next_attempt_at, acquired_token, acquired_at,
            lease_expires_at, last_error}'::text[]
        = to_jsonb(m) - '{attempts, next_attempt_at, acquired_token, acquired_at,
            lease_expires_at, last_error}'::text[]
        and m.attempts = 0 and m.acquired_token is null and m.last_error = 'no'";
    assert_eq!(count(&database, same).await, 1);
    assert_eq!(dead_letters(&database).await, 0);
}

#[tokio::test]
async fn without_the_table_of_dead_letters_a_settle_is_an_error_and_its_message_stays() {
    let database = database().await;
    enqueue(&database, vec![wait::job(())]).await;
    let storage = storage(&database).await;
    let held = claim(&storage, "gate", SECOND * 60, Source::Pending).await;
    let drop = "drop table outbox.dead_letter";
    database.execute(drop).await.expect("it is dropped");
    for verdict in [
        Verdict::Done,
        Verdict::Dead {
            reason: DeadReason::Rejected,
            error: "no".to_owned(),
        },
    ] {
        let settlement = Settlement::new(held.messages[0].held(), verdict);
        let error = storage.settle(&[settlement]).await.expect_err("no table");
        assert_eq!(error.kind(), ErrorKind::Unmigrated);
    }
    let renewal = Renewal::new(held.messages[0].held(), SECOND * 60);
    let renewed = storage.renew(&[renewal]).await.expect("it answers");
    assert_eq!(renewed.renewed, [held.messages[0].id], "it is still held");
    let error = storage.verify_schema().await.expect_err("it is noticed");
    assert!(error.to_string().contains("dead_letter"), "{error}");
}

#[tokio::test]
async fn health_tells_a_server_that_hangs_or_is_absent_and_a_shutdown_still_ends_the_worker() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = |of: &TcpListener| of.local_addr().expect("it is bound").port();
    let ports = [port(&silent), port(&closed)];
    // The silent one takes connections, and answers nothing.
    drop(closed);
    for port in ports {
        let url = format!("postgres://nobody@127.0.0.1:{port}/nothing");
        let storage = PgStorage::options()
            .prepare(url.parse().expect("a URL"))
            .expect("it does not connect");
        let (teller, mut told) = unbounded_channel();
        let (failed, mut fails) = unbounded_channel();
        let worker = outbox::tokio::worker(storage)
            .data::<Teller>(teller)
            .shared_data(Arc::new(Semaphore::new(0)))
            .storage_timeout(SECOND / 10)
            .register::<wait>()
            .observe(move |event| {
                if let Event::StorageFailed { failures, .. } = event {
                    let _ = failed.send(*failures);
                }
            });
        let running = Running::start(worker);
        for expected in [1, 2] {
            let failures = within("it fails", fails.recv()).await;
            assert_eq!(failures, Some(expected));
        }
        match running.handle.health() {
            Health::Degraded { error, .. } => assert!(error.contains("OBX0007"), "{error}"),
            health => panic!("the server is not there: {health:?}"),
        }
        let report = running.stop().await;
        assert_eq!((report.claimed, report.started), (0, 0));
        assert!(told.try_recv().is_err());
    }
}
