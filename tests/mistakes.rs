//! Bad input, each met with an error that names the mistake and its remedy, and none of them
//! harming what the caller does in the same transaction.

mod support;

use outbox::postgres::{PgOutbox, PgStorage, SchemaName};
use outbox::prelude::*;
use outbox::{Error, ErrorKind};
use outbox_testkit::postgres::{Server, TestDatabase};
use serde::{Deserialize, Serialize};
use support::{count, database, run_until_idle, storage};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What handlers tell the test.
type Teller = UnboundedSender<String>;

#[derive(Serialize, Deserialize)]
struct NewUser {
    name: String,
}

#[job(queue = "mail")]
async fn welcome(user: NewUser, Data(told): Data<Teller>) -> outbox::Result {
    told.send(user.name)?;
    Ok(())
}

fn user(name: &str) -> Draft {
    welcome::job(NewUser {
        name: name.to_owned(),
    })
}

async fn worker(database: &TestDatabase) -> (outbox::Worker, UnboundedReceiver<String>) {
    let (teller, told) = unbounded_channel();
    let worker = outbox::tokio::worker(storage(database).await)
        .data::<Teller>(teller)
        .register::<welcome>();
    (worker, told)
}

/// Everything that was told.
fn all(told: &mut UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| told.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_refused_message_names_its_mistake_and_leaves_the_transaction_usable() {
    let database = database().await;
    let pool = database.pool(1).await.expect("Postgres answers");
    let outbox = PgOutbox::new();
    let bad: [(Draft, &str); 12] = [
        (
            welcome::job(NewUser {
                name: "x".repeat(1024 * 1024),
            }),
            "raise max_payload_bytes",
        ),
        (user("ann").queue("q".repeat(256)), "queue"),
        (user("ann").queue(""), "queue"),
        (user("ann").queue(" \t"), "the queue is only whitespace"),
        (user("ann").queue("a\0b"), "queue"),
        (Draft::json("mail", "k".repeat(256), &1), "kind"),
        (Draft::json("mail", "\n", &1), "the kind is only whitespace"),
        (user("ann").key("  "), "the key is only whitespace"),
        (user("ann").key("a\0b"), "key"),
        (user("ann").tag("a\0b"), "tag"),
        (user("ann").header("h", "a\0b"), "header"),
        (user("ann").max_attempts(0), "max_attempts"),
    ];
    let mut tx = pool.begin().await.expect("it begins");
    sqlx::query("create table business (name text)")
        .execute(&mut *tx)
        .await
        .expect("it is made");
    for (draft, names) in bad {
        let error = outbox.enqueue(&mut tx, draft).await.expect_err(names);
        assert_eq!(
            (error.kind(), error.operation()),
            (ErrorKind::InvalidMessage, "enqueue")
        );
        assert!(error.message().contains(names), "{error}");
        assert!(error.advice().contains("nothing was written"), "{error}");
    }
    let many = [user("carl"), user("ann").key("")];
    let error = outbox
        .enqueue_many(&mut tx, many)
        .await
        .expect_err("one is bad");
    assert_eq!(error.kind(), ErrorKind::InvalidMessage);
    // The same transaction goes on.
    sqlx::query("insert into business values ('kept')")
        .execute(&mut *tx)
        .await
        .expect("it goes on");
    outbox
        .enqueue(&mut tx, user("dora"))
        .await
        .expect("written");
    tx.commit().await.expect("it commits");
    assert_eq!(count(&database, "select count(*) from business").await, 1);
    let (worker, mut told) = worker(&database).await;
    run_until_idle(worker).await;
    assert_eq!(all(&mut told), ["dora"]);
}

#[tokio::test]
async fn an_unmigrated_database_is_an_error_that_names_migrate() {
    let database = Server::shared()
        .database()
        .await
        .expect("a database is made");
    let (worker, _told) = worker(&database).await;
    let error = worker.run().await.expect_err("there is no schema");
    assert_eq!(error.kind(), ErrorKind::Unmigrated);
    assert!(error.to_string().contains("migrate()"), "{error}");
    let mut connection = database.connect().await.expect("Postgres answers");
    let error = PgOutbox::new().enqueue(&mut connection, user("ann")).await;
    let error = error.expect_err("there is no schema");
    assert_eq!(error.kind(), ErrorKind::Unmigrated);
    assert!(error.to_string().contains("migrate()"), "{error}");
}

#[tokio::test]
async fn a_hostile_schema_name_is_refused_and_a_plain_one_is_used() {
    let database = Server::shared()
        .database()
        .await
        .expect("a database is made");
    let hostile = "x\"; drop schema public cascade; --";
    let refused: [Result<(), Error>; 3] = [
        SchemaName::new(hostile).map(drop),
        PgOutbox::with_schema(hostile).map(drop),
        PgStorage::options()
            .schema(hostile)
            .connect(&database.url())
            .await
            .map(drop),
    ];
    for result in refused {
        let error = result.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.advice().contains("lower-case"), "{error}");
    }
    let storage = PgStorage::options()
        .schema("jobs")
        .connect(&database.url())
        .await;
    let storage = storage.expect("it connects");
    storage.migrate().await.expect("it migrates");
    let mut connection = database.connect().await.expect("Postgres answers");
    storage
        .outbox()
        .enqueue(&mut connection, user("ann"))
        .await
        .expect("written");
    let (teller, mut told) = unbounded_channel();
    let worker = outbox::tokio::worker(storage)
        .data::<Teller>(teller)
        .register::<welcome>();
    run_until_idle(worker).await;
    assert_eq!(all(&mut told), ["ann"]);
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_a_dead_letter_with_its_bytes() {
    let database = database().await;
    let mut connection = database.connect().await.expect("Postgres answers");
    let outbox = PgOutbox::new();
    let strange = Draft::json("mail", welcome::KIND, &1);
    outbox
        .enqueue(&mut connection, strange)
        .await
        .expect("written");
    outbox
        .enqueue(&mut connection, user("ann"))
        .await
        .expect("written");
    let (worker, mut told) = worker(&database).await;
    let report = run_until_idle(worker).await;
    assert_eq!((report.done, report.dead, report.retried), (1, 1, 0));
    assert_eq!(all(&mut told), ["ann"]);
    let kept = "select count(*) from outbox.dead_letter
        where reason = 'undecodable' and payload = '1' and attempts = 1";
    assert_eq!(count(&database, kept).await, 1);
}

#[tokio::test]
async fn mistakes_of_a_workers_setup_are_found_before_it_runs() {
    let database = database().await;
    let refused = |worker: outbox::Worker| worker.prepare().map(drop).expect_err("it is refused");
    let bare = outbox::tokio::worker(storage(&database).await);
    let error = refused(bare.register::<welcome>());
    assert_eq!(error.kind(), ErrorKind::MissingData);
    assert!(
        error.to_string().contains("`welcome`") && error.to_string().contains(".data("),
        "{error}"
    );
    let (twice, _told) = worker(&database).await;
    let error = refused(twice.register::<welcome>());
    assert_eq!(error.kind(), ErrorKind::DuplicateHandler);
    assert!(
        error.to_string().contains("\"welcome\"") && error.to_string().contains("mistakes.rs"),
        "{error}"
    );
}
