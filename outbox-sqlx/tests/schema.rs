//! Migrating, printing and comparing the schema.
#![allow(clippy::unwrap_used)]

mod support;

use outbox_core::{ErrorKind, Storage};
use outbox_sqlx::{PgOutbox, PgStorage, SchemaName, schema_sql};
use support::{claim, database, execute, message, number, pending};

#[tokio::test]
async fn a_migrated_schema_has_no_differences() {
    let database = database().await;
    let storage = database.storage().await;
    storage.check().await.unwrap();
    storage.verify_schema().await.unwrap();
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = database().await;
    let storage = database.storage().await;
    storage.migrate().await.unwrap();
    let mut ours = database.connect().await;
    let versions = "select count(*) from outbox.schema_version";
    assert_eq!(number(&mut ours, versions).await, 1);
}

#[tokio::test]
async fn many_processes_may_migrate_at_once() {
    let database = database().await;
    let storages = [
        database.unmigrated().await,
        database.unmigrated().await,
        database.unmigrated().await,
        database.unmigrated().await,
    ];
    let [a, b, c, d] = &storages;
    let all = tokio::join!(a.migrate(), b.migrate(), c.migrate(), d.migrate());
    assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok() && all.3.is_ok());
    a.verify_schema().await.unwrap();
}

#[tokio::test]
async fn a_migrator_that_lost_the_race_succeeds() {
    let database = database().await;
    let storage = database.unmigrated().await;
    let (mut blocker, mut observer) = (database.connect().await, database.connect().await);
    execute(
        &mut blocker,
        "begin; select pg_advisory_xact_lock(hashtextextended('outbox migration outbox', 0))",
    )
    .await;
    let late = storage.clone();
    let late = tokio::spawn(async move { late.migrate().await });
    support::until_waiting(&mut observer, 1).await;
    execute(&mut blocker, &storage.schema_sql()).await;
    execute(&mut blocker, "commit").await;
    late.await.unwrap().unwrap();
    storage.verify_schema().await.unwrap();
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing() {
    let database = database().await;
    let storage = database.unmigrated().await;
    let mut ours = database.connect().await;
    execute(
        &mut ours,
        "create schema outbox; create table outbox.dead_letter (x int)",
    )
    .await;
    let error = storage.migrate().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    let tables = "select count(*) from pg_tables where schemaname = 'outbox'";
    assert_eq!(number(&mut ours, tables).await, 1);
    execute(&mut ours, "drop table outbox.dead_letter").await;
    storage.migrate().await.unwrap();
    storage.verify_schema().await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_create_schemas_uses_a_prepared_one() {
    let database = database().await;
    let role = database.role("").await;
    let mut ours = database.connect().await;
    let prepare = format!("create schema outbox authorization {role}");
    execute(&mut ours, &prepare).await;
    let storage = PgStorage::connect_with(database.options_of(&role))
        .await
        .unwrap();
    storage.migrate().await.unwrap();
    storage.verify_schema().await.unwrap();
}

#[tokio::test]
async fn an_absent_schema_is_unmigrated_and_names_the_remedy() {
    let database = database().await;
    let storage = database.unmigrated().await;
    for error in [
        storage.check().await.unwrap_err(),
        storage.verify_schema().await.unwrap_err(),
        storage.claim(&pending("q", 1)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unmigrated);
        assert!(
            error.to_string().contains("PgStorage::migrate()"),
            "{error}"
        );
    }
    let mut ours = database.connect().await;
    storage.migrate().await.unwrap();
    execute(&mut ours, "delete from outbox.schema_version").await;
    let error = storage.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unmigrated);
    assert!(
        error.to_string().contains("PgStorage::migrate()"),
        "{error}"
    );
}

#[tokio::test]
async fn a_newer_schema_asks_for_an_upgrade() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    execute(&mut ours, "insert into outbox.schema_version values (2)").await;
    for error in [
        storage.check().await.unwrap_err(),
        storage.migrate().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unmigrated);
        assert!(error.advice().contains("upgrade"), "{error}");
    }
}

#[tokio::test]
async fn two_schemas_of_one_database_do_not_meet() {
    let database = database().await;
    let other = PgStorage::options()
        .schema("user")
        .connect_with(database.options())
        .await
        .unwrap();
    other.migrate().await.unwrap();
    other.verify_schema().await.unwrap();
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let outbox = PgOutbox::with_schema("user").unwrap();
    outbox.enqueue(&mut ours, message("q")).await.unwrap();
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 0);
    assert_eq!(claim(&other, &pending("q", 9)).await.messages.len(), 1);
}

#[tokio::test]
async fn hostile_schema_names_are_refused_everywhere() {
    let hostile = "x\"; drop schema public cascade; --";
    let error = PgOutbox::with_schema(hostile).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let error = PgStorage::options()
        .schema(hostile)
        .connect("postgres://nowhere.invalid/x")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn the_printed_schema_is_the_golden_one() {
    let printed = schema_sql(&SchemaName::default());
    assert!(
        printed == include_str!("../schema.sql"),
        "schema.sql must be what schema_sql() prints"
    );
}

#[tokio::test]
async fn the_printed_schema_makes_a_working_one() {
    let database = database().await;
    let mut ours = database.connect().await;
    execute(&mut ours, &schema_sql(&SchemaName::default())).await;
    let storage = database.unmigrated().await;
    storage.check().await.unwrap();
    storage.verify_schema().await.unwrap();
}

#[tokio::test]
async fn every_kind_of_drift_is_named() {
    let database = database().await;
    let storage = database.storage().await;
    let cases = [
        ("drop table outbox.dead_letter", "table dead_letter is missing"),
        (
            "alter table outbox.message drop column tag",
            "column message.tag is missing",
        ),
        (
            "alter table outbox.message alter column tag type varchar(20)",
            "column message.tag is character varying(20), not text",
        ),
        (
            "alter table outbox.message alter column kind drop not null",
            "column message.kind must not allow null",
        ),
        (
            "alter table outbox.message alter column tag set not null",
            "column message.tag must allow null",
        ),
        (
            "alter table outbox.message alter column next_attempt_at drop default",
            "column message.next_attempt_at defaults to nothing, not now()",
        ),
        (
            "alter table outbox.message alter column max_attempts set default 3",
            "column message.max_attempts defaults to 3, not 10",
        ),
        (
            "alter table outbox.message alter column id drop identity",
            "column message.id must generate its values",
        ),
        (
            "alter table outbox.message add column mine int not null",
            "column message.mine must allow null or have a default",
        ),
        (
            "drop index outbox.message_lease_idx",
            "lacks an index on (queue, lease_expires_at, id) where acquired_token is not null",
        ),
        (
            "drop index outbox.message_pending_idx;
             create index message_pending_idx on outbox.message (queue, priority, next_attempt_at, id)",
            "lacks an index on (queue, priority, next_attempt_at, id) where acquired_token is null \
             (its message_pending_idx is on (queue, priority, next_attempt_at, id))",
        ),
        (
            "drop index outbox.message_pending_idx;
             create index on outbox.message (queue, priority, next_attempt_at desc, id)
             where acquired_token is null",
            "lacks an index on (queue, priority, next_attempt_at, id) where acquired_token is null",
        ),
        (
            "drop index outbox.message_key_idx;
             create index message_key_idx on outbox.message (queue, key) where key is not null",
            "lacks a unique index on (queue, key) where key is not null",
        ),
        (
            "update pg_index set indisvalid = false
             where indexrelid = 'outbox.message_key_idx'::regclass",
            "lacks a unique index on (queue, key)",
        ),
        (
            "alter table outbox.message drop constraint message_lease_check",
            "lacks check ((acquired_token is null) = (acquired_at is null)",
        ),
        (
            "alter table outbox.message drop constraint message_priority_check;
             alter table outbox.message add constraint message_priority_check check (priority >= 0)",
            "lacks check (priority >= '-3'::integer and priority <= 3)",
        ),
        (
            "alter table outbox.message reset (autovacuum_vacuum_scale_factor)",
            "must have the option autovacuum_vacuum_scale_factor = 0",
        ),
        (
            "alter table outbox.message set (autovacuum_vacuum_insert_scale_factor = 0.2)",
            "must have the option autovacuum_vacuum_insert_scale_factor = 0",
        ),
        (
            "alter table outbox.message reset (autovacuum_vacuum_threshold)",
            "lacks the option autovacuum_vacuum_threshold",
        ),
    ];
    let mut ours = database.connect().await;
    for (change, difference) in cases {
        execute(&mut ours, change).await;
        let error = storage.verify_schema().await.expect_err(change);
        assert_eq!(error.kind(), ErrorKind::SchemaDrift, "{change}");
        assert!(error.to_string().contains(difference), "{change}: {error}");
        execute(&mut ours, "drop schema outbox cascade").await;
        execute(&mut ours, &storage.schema_sql()).await;
    }
    storage.verify_schema().await.unwrap();
}

#[tokio::test]
async fn all_differences_are_named_at_once() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    execute(
        &mut ours,
        "drop index outbox.message_lease_idx; alter table outbox.message drop column tag",
    )
    .await;
    let text = storage.verify_schema().await.unwrap_err().to_string();
    assert!(
        text.contains("message.tag") && text.contains("lease_expires_at"),
        "{text}"
    );
}

#[tokio::test]
async fn what_the_owner_added_or_renamed_is_no_drift() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    execute(
        &mut ours,
        "alter table outbox.message add column mine text, add column counted int not null default 0;
         create index mine_idx on outbox.message (tag);
         create table outbox.notes (x int not null);
         alter table outbox.message add check (octet_length(payload) < 1000000);
         alter table outbox.message set (autovacuum_vacuum_threshold = 50000, fillfactor = 80);
         alter index outbox.message_pending_idx rename to theirs;
         alter table outbox.message rename constraint message_lease_check to their_check",
    )
    .await;
    storage.verify_schema().await.unwrap();
}
