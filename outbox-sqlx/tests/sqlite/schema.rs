//! The schema: made once by any number of processes, printed, compared, and checked before the
//! first claim.

use std::pin::pin;

use outbox_core::{ErrorKind, Storage};
use outbox_sqlx::sqlite::{SqliteOutbox, SqliteStorage, TablePrefix, schema_sql};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::support::{
    claim, execute, file, ids, message, migrated, number, pending, spin, storage_of, texts,
};

const TABLES: &str = "select name from sqlite_schema where type = 'table'
    and name not like 'sqlite%' order by name";

#[tokio::test]
async fn the_printed_schema_is_the_golden_one() {
    let golden = include_str!("../../schema.sqlite.sql");
    assert_eq!(schema_sql(&TablePrefix::default()), golden);
}

#[tokio::test]
async fn migrating_makes_what_is_expected_and_is_done_once() {
    let (file, storage) = migrated().await;
    storage.verify_schema().await.unwrap();
    storage.migrate().await.unwrap();
    storage.check().await.unwrap();
    let mut ours = file.connect().await.unwrap();
    let tables = texts(&mut ours, TABLES).await;
    assert_eq!(
        tables,
        [
            "outbox_dead_letter",
            "outbox_message",
            "outbox_schema_version"
        ]
    );
    let versions = "select count(*) from outbox_schema_version where version = 1";
    assert_eq!(number(&mut ours, versions).await, 1);
    assert_eq!(texts(&mut ours, "pragma journal_mode").await, ["wal"]);
}

#[tokio::test]
async fn many_migrators_of_a_new_file_do_not_disturb_each_other() {
    for _ in 0..5 {
        let file = file();
        let migrators: Vec<_> = (0..8)
            .map(|_| {
                let url = file.url();
                // Threads with runtimes of their own, as processes would be.
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build();
                    runtime.unwrap().block_on(async {
                        let storage = SqliteStorage::connect(&url).await.unwrap();
                        storage.migrate().await.unwrap();
                        storage.check().await.unwrap();
                    });
                })
            })
            .collect();
        for migrator in migrators {
            migrator.join().unwrap();
        }
        storage_of(&file).await.verify_schema().await.unwrap();
    }
}

#[tokio::test]
async fn a_file_in_use_with_another_journal_is_changed_when_it_is_free() {
    for statement in ["select count(*) from account", "delete from account"] {
        let file = file();
        let options = SqliteConnectOptions::new()
            .filename(file.folder().join("test.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Delete);
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        execute(&mut other, "create table account (id integer)").await;
        let mut tx = other.begin().await.unwrap();
        execute(&mut tx, statement).await;
        let storage = storage_of(&file).await;
        let mut migrating = pin!(storage.migrate());
        let early = spin(20_000, migrating.as_mut()).await;
        assert!(early.is_none(), "{statement}: somebody uses the file");
        tx.commit().await.unwrap();
        migrating.await.unwrap();
        storage.verify_schema().await.unwrap();
        // It notices when it next reads.
        number(&mut other, "select count(*) from account").await;
        assert_eq!(texts(&mut other, "pragma journal_mode").await, ["wal"]);
    }
}

#[tokio::test]
async fn the_printed_schema_is_the_migrated_one() {
    let file = file();
    let mut ours = file.connect().await.unwrap();
    let storage = storage_of(&file).await;
    let mut tx = ours.begin().await.unwrap();
    execute(&mut tx, &storage.schema_sql()).await;
    tx.commit().await.unwrap();
    storage.verify_schema().await.unwrap();
    storage.check().await.unwrap();
}

#[tokio::test]
async fn one_file_holds_several_outboxes() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let options = SqliteStorage::options().prefix("select");
    let other = options.connect(&file.url()).await.unwrap();
    assert_eq!(
        other.check().await.unwrap_err().kind(),
        ErrorKind::Unmigrated
    );
    other.migrate().await.unwrap();
    other.verify_schema().await.unwrap();
    assert_eq!(other.prefix().as_str(), "select");
    let outbox = SqliteOutbox::with_prefix("select").unwrap();
    outbox.enqueue(&mut ours, message("q")).await.unwrap();
    assert_eq!(ids(&claim(&storage, &pending("q", 9)).await), []);
    assert_eq!(claim(&other, &pending("q", 9)).await.messages.len(), 1);
}

#[tokio::test]
async fn a_hostile_prefix_is_refused_before_anything_is_opened() {
    let file = file();
    for hostile in ["a\" (x); drop table account; --", "sqlite", "", "Ä"] {
        let options = SqliteStorage::options().prefix(hostile);
        let error = options.connect(&file.url()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{hostile}");
        let error = SqliteOutbox::with_prefix(hostile).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{hostile}");
    }
    assert!(!file.folder().join("test.db").exists());
}

#[tokio::test]
async fn an_absent_older_or_newer_schema_names_the_remedy() {
    let file = file();
    let storage = storage_of(&file).await;
    let migrate = "SqliteStorage::migrate()";
    for told in [storage.check().await, storage.verify_schema().await] {
        let error = told.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unmigrated);
        assert!(error.advice().contains(migrate), "{error}");
    }
    storage.migrate().await.unwrap();
    let mut ours = file.connect().await.unwrap();
    for (sql, advice) in [
        ("update outbox_schema_version set version = 2", "upgrade"),
        ("delete from outbox_schema_version", migrate),
    ] {
        execute(&mut ours, sql).await;
        for told in [storage.check().await, storage.verify_schema().await] {
            let error = told.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unmigrated, "{sql}");
            assert!(error.advice().contains(advice), "{sql}: {error}");
        }
    }
    execute(
        &mut ours,
        "insert into outbox_schema_version (version) values (7)",
    )
    .await;
    let error = storage.migrate().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unmigrated);
    assert!(error.to_string().contains("version 7"), "{error}");
}

/// Each a change of one word in the schema, and what is told of it.
const DRIFTS: [(&str, &str, &str); 16] = [
    (
        "    tag              text,\n    attempts",
        "    attempts",
        "column message.tag is missing",
    ),
    (
        "headers          text",
        "headers          any",
        "column message.headers is any, not text",
    ),
    (
        "lease_losses     integer not null default 0",
        "lease_losses     integer not null default 1",
        "column message.lease_losses defaults to 1, not 0",
    ),
    (
        "last_error       text",
        "last_error       text not null",
        "column message.last_error must allow null",
    ),
    (
        "payload          blob    not null",
        "payload          blob",
        "column message.payload must not allow null",
    ),
    (
        "payload          blob    not null",
        "payload          blob    not null,\n    mine text not null",
        "column message.mine must allow null or have a default",
    ),
    (
        "not null primary key autoincrement",
        "not null primary key",
        "table message lacks the option autoincrement",
    ),
    (
        "integer not null primary key,\n    queue",
        "integer not null,\n    queue",
        "column dead_letter.message_id must generate its values",
    ),
    (
        "payload      blob    not null\n) strict",
        "payload      blob    not null\n)",
        "table dead_letter lacks the option strict",
    ),
    (
        "(queue, priority, next_attempt_at)",
        "(queue, next_attempt_at, priority)",
        "table message lacks an index on (queue, priority, next_attempt_at) where acquired_token is null",
    ),
    (
        "(queue, priority, next_attempt_at)",
        "(queue, priority, next_attempt_at desc)",
        "next_attempt_at descending",
    ),
    (
        "where acquired_token is not null",
        "where acquired_token is not null and priority = 0",
        "table message lacks an index on (queue, lease_expires_at)",
    ),
    (
        "create unique index outbox_message_key_idx",
        "create index outbox_message_key_idx",
        "table message lacks a unique index on (queue, key) where key is not null",
    ),
    (
        "(priority between -3 and 3)",
        "(priority between -3 and 30)",
        "table message lacks check (priority between -3 and 3)",
    ),
    (
        "(length(acquired_token) = 16)",
        "(length(acquired_token) = 16 or true)",
        "table message lacks check (length(acquired_token) = 16)",
    ),
    (
        "died_at      integer not null default",
        "died_at      integer not null check (died_at <> 0) default",
        "",
    ),
];

#[tokio::test]
async fn every_kind_of_drift_is_named() {
    for (right, wrong, difference) in DRIFTS {
        let file = file();
        let storage = storage_of(&file).await;
        let mut ours = file.connect().await.unwrap();
        let schema = storage.schema_sql();
        let drifted = schema.replacen(right, wrong, 1);
        assert_ne!(drifted, schema, "{right}");
        execute(&mut ours, &drifted).await;
        let verified = storage.verify_schema().await;
        if difference.is_empty() {
            verified.unwrap();
            continue;
        }
        let error = verified.expect_err(difference);
        assert_eq!(error.kind(), ErrorKind::SchemaDrift, "{difference}");
        assert!(
            error.to_string().contains(difference),
            "{difference}: {error}"
        );
    }
}

#[tokio::test]
async fn what_the_owner_added_is_no_drift() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    execute(
        &mut ours,
        "alter table outbox_message add column mine text;
         alter table outbox_message add column counted integer not null default 0;
         alter table outbox_message add column doubled integer as (priority * 2);
         create index mine_idx on outbox_message (tag) where tag is not null;
         create table outbox_notes (x integer not null);
         create view outbox_all as select id from outbox_message;
         drop index outbox_message_key_idx;
         create unique index theirs on outbox_message (queue, key)
             WHERE (key IS NOT NULL) -- where it is set",
    )
    .await;
    storage.verify_schema().await.unwrap();
    storage.check().await.unwrap();
}

#[tokio::test]
async fn what_would_fail_a_claim_is_told_before_the_first_one() {
    for change in [
        "alter table outbox_message rename column tag to label",
        "alter table outbox_message rename column lease_expires_at to ends_at",
        "alter table outbox_dead_letter rename column reason to why",
        "drop table outbox_dead_letter",
        "drop index outbox_message_pending_idx",
        "drop index outbox_message_lease_idx;
         create index outbox_message_lease_idx on outbox_message (queue, lease_expires_at)
             where lease_expires_at > 0",
    ] {
        let (file, storage) = migrated().await;
        let mut ours = file.connect().await.unwrap();
        execute(&mut ours, change).await;
        let error = storage.check().await.expect_err(change);
        assert_eq!(error.kind(), ErrorKind::SchemaDrift, "{change}: {error:?}");
        assert!(
            error.advice().contains("verify_schema()"),
            "{change}: {error}"
        );
        let verified = storage.verify_schema().await;
        assert!(verified.is_err(), "{change}");
    }
}

#[tokio::test]
async fn another_journal_is_told_before_the_first_claim() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    drop(storage);
    // Nobody else may have it open.
    let mut changed: Vec<String> = Vec::new();
    while changed != ["delete"] {
        let sql = AssertSqlSafe("pragma journal_mode = delete");
        let asked = sqlx::query_scalar(sql).fetch_all(&mut ours).await;
        changed = asked.unwrap_or_default();
    }
    let storage = storage_of(&file).await;
    for told in [storage.check().await, storage.verify_schema().await] {
        let error = told.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaDrift);
        assert!(error.to_string().contains("delete, not wal"), "{error}");
    }
    drop(ours);
    storage.migrate().await.unwrap();
    storage.check().await.unwrap();
}
