//! The Postgres fixture against a real server: that of `DATABASE_URL`, or a throwaway one. What
//! ends processes or servers is in `postgres_cluster.rs`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outbox_testkit::postgres::{FixtureErrorKind, Server};
use sqlx::Connection;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

async fn exists(server: &Server, name: &str) -> bool {
    let observer = server.database().await.expect("a database");
    let sql = format!("select count(*) from pg_database where datname = '{name}'");
    observer.count(&sql).await.expect("a count") == 1
}

#[test]
fn a_database_exists_as_long_as_its_value_even_with_sessions_left() {
    block_on(async {
        let server = Server::shared();
        let database = server.database().await.expect("a database");
        let name = database.name().to_owned();
        let pool = database.pool(2).await.expect("a pool");
        database
            .execute("create table orders (id int); insert into orders values (1), (2)")
            .await
            .expect("two statements");
        let count = database.count("select count(*) from orders").await;
        assert_eq!(count.expect("a count"), 2);
        assert!(exists(server, &name).await);

        drop(database);
        assert!(!exists(server, &name).await);
        pool.close().await;
    });
}

#[test]
fn roles_of_a_database_are_dropped_with_it_even_when_the_test_panics() {
    let roles = std::sync::Mutex::new(Vec::new());
    let test = || {
        block_on(async {
            let database = Server::shared().database().await.expect("a database");
            for _ in 0..2 {
                let role = database.role("login password 'role'").await;
                let role = role.expect("a role");
                assert!(role.starts_with(database.name()));
                let owns = format!(
                    "create schema s{role} authorization {role};
                     grant create on database {} to {role};
                     alter role {role} set lock_timeout = '1s'",
                    database.name()
                );
                database.execute(&owns).await.expect("it owns a schema");
                roles.lock().expect("no panic yet").push(role);
            }
            // Not a panic of the test's thread alone: the database is dropped while it unwinds.
            panic!("the test fails");
        });
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).is_err());
    block_on(async {
        let observer = Server::shared().database().await.expect("a database");
        let roles = roles.into_inner().expect("the lock was let go");
        assert_eq!(roles.len(), 2);
        for role in roles {
            let sql = format!("select count(*) from pg_roles where rolname = '{role}'");
            assert_eq!(observer.count(&sql).await.expect("a count"), 0, "{role}");
        }
    });
}

#[test]
fn a_template_is_made_once_and_its_copies_share_nothing() {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let copy_and_insert = || {
        block_on(async {
            let database = Server::shared()
                .database_from("made once", async |url| {
                    MADE.fetch_add(1, Ordering::Relaxed);
                    let mut connection = sqlx::PgConnection::connect(&url).await?;
                    sqlx::raw_sql("create table orders (id int)")
                        .execute(&mut connection)
                        .await?;
                    // Left open on purpose: a copy needs a template without sessions.
                    std::mem::forget(connection);
                    Ok::<(), sqlx::Error>(())
                })
                .await
                .expect("a copy");
            let inserted = database.execute("insert into orders values (1)").await;
            assert_eq!(inserted.expect("the table is there"), 1);
            let count = database.count("select count(*) from orders").await;
            assert_eq!(count.expect("a count"), 1);
        });
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(copy_and_insert);
        }
    });
    assert_eq!(MADE.load(Ordering::Relaxed), 1);
}

#[test]
fn a_template_that_cannot_be_filled_is_reported_and_tried_again() {
    block_on(async {
        let server = Server::shared();
        let mut left = String::new();
        let refused = server
            .database_from("refused", async |url| {
                left = url;
                Err::<(), _>(std::io::Error::other("no such migration"))
            })
            .await
            .expect_err("the closure failed");
        assert_eq!(refused.kind(), FixtureErrorKind::Template);
        assert_eq!(
            format!("{refused:?}"),
            "filling the template \"refused\" failed: read the source error, which is of the \
             closure that fills it (caused by: no such migration)"
        );
        let start = left.find("outbox_test_").expect("the template's name");
        let name = left[start..].split('?').next().expect("a first part");
        assert!(!exists(server, name).await);

        let filled = server
            .database_from("refused", async |_| Ok::<(), std::io::Error>(()))
            .await;
        assert!(filled.is_ok());
    });
}

#[test]
fn a_dropped_creation_leaves_no_database() {
    block_on(async {
        // A server handle of its own gives this test its own run and so its own names.
        let observer = Server::shared().database().await.expect("a database");
        let own = Server::connect(&observer.url()).expect("the same server");
        let mut creation = Box::pin(own.database());
        let poll = futures_util::poll!(creation.as_mut());
        assert!(poll.is_pending());
        drop(creation);
        let next = own.database().await.expect("a database");
        let run = &next.name()["outbox_test_".len()..][..16];
        let sql = format!("select count(*) from pg_database where datname like '%{run}%'");
        assert_eq!(observer.count(&sql).await.expect("a count"), 1);
    });
}

#[test]
fn a_held_lock_blocks_until_it_is_released() {
    block_on(async {
        let database = Server::shared().database().await.expect("a database");
        database
            .execute("create table orders (id int); insert into orders values (1)")
            .await
            .expect("a table");
        let lock = database
            .lock_rows("select from orders for update")
            .await
            .expect("a lock");
        let update = database.execute("update orders set id = 2");
        let blocked = async {
            let by_query = database.wait_until_blocked("update orders%").await;
            let by_holder = lock.wait_until_blocking().await;
            assert_eq!(by_query.expect("blocked"), by_holder.expect("blocked"));
            let unchanged = database.count("select count(*) from orders where id = 1");
            assert_eq!(unchanged.await.expect("a count"), 1);
            lock.release().await.expect("released");
        };
        let (updated, ()) = futures_util::future::join(update, blocked).await;
        assert_eq!(updated.expect("an update"), 1);
    });
}

#[test]
fn a_dropped_lock_lets_go() {
    block_on(async {
        let database = Server::shared().database().await.expect("a database");
        database
            .execute("create table orders (id int); insert into orders values (1)")
            .await
            .expect("a table");
        let lock = database.lock_rows("update orders set id = 2").await;
        let lock = lock.expect("a lock");
        assert!(lock.pid() > 0);
        drop(lock);
        let updated = database.execute("update orders set id = 3 where id = 1");
        let updated = tokio::time::timeout(Duration::from_secs(10), updated).await;
        assert_eq!(updated.expect("not blocked").expect("an update"), 1);
    });
}

#[test]
fn only_the_named_sessions_of_this_database_are_terminated() {
    block_on(async {
        let database = Server::shared().database().await.expect("a database");
        let other = Server::shared().database().await.expect("a database");
        let named = async |url: String, name: &str| {
            let options: sqlx::postgres::PgConnectOptions = url.parse().expect("a URL");
            sqlx::PgConnection::connect_with(&options.application_name(name))
                .await
                .expect("a connection")
        };
        let mut worker = named(database.url(), "worker-1").await;
        let mut producer = named(database.url(), "producer").await;
        let mut elsewhere = named(other.url(), "worker-1").await;

        let ended = database.terminate_backends("worker-%").await;
        assert_eq!(ended.expect("terminated"), 1);
        assert!(worker.ping().await.is_err());
        assert!(producer.ping().await.is_ok());
        assert!(elsewhere.ping().await.is_ok());

        assert_eq!(database.terminate_all().await.expect("terminated"), 1);
        assert!(producer.ping().await.is_err());
        assert!(elsewhere.ping().await.is_ok());
    });
}

#[test]
fn leases_expire_and_messages_fall_due_without_waiting() {
    block_on(async {
        let database = Server::shared().database().await.expect("a database");
        database
            .execute(
                r#"create schema "we""ird";
                create table "we""ird".message (
                    next_attempt_at timestamptz not null default now(),
                    acquired_token uuid, lease_expires_at timestamptz);
                insert into "we""ird".message (acquired_token, lease_expires_at)
                    values (gen_random_uuid(), now() + interval '1 hour');
                insert into "we""ird".message (next_attempt_at) values (now() + interval '1 day')"#,
            )
            .await
            .expect("an outbox");
        assert_eq!(database.expire_leases("we\"ird").await.expect("expired"), 1);
        assert_eq!(database.make_due("we\"ird").await.expect("due"), 1);
        let sql = r#"select count(*) from "we""ird".message where next_attempt_at <= now()
                     and (acquired_token is null) = (lease_expires_at is null)
                     and coalesce(lease_expires_at < now(), true)"#;
        assert_eq!(database.count(sql).await.expect("a count"), 2);

        let missing = database.expire_leases("outbox").await;
        let missing = missing.expect_err("there is no such schema");
        assert_eq!(missing.kind(), FixtureErrorKind::Database);
    });
}

#[test]
fn an_awaited_condition_is_seen_when_it_comes() {
    block_on(async {
        let database = Server::shared().database().await.expect("a database");
        let create = database.execute("create table orders (id int)");
        let wait = database.wait_until("to_regclass('orders') is not null");
        let (wait, create) = futures_util::future::join(wait, create).await;
        create.expect("a table");
        wait.expect("it came");
        let wrong = database.wait_until("no such column").await;
        let wrong = wrong.expect_err("it is not SQL");
        assert_eq!(wrong.kind(), FixtureErrorKind::Database);
    });
}
