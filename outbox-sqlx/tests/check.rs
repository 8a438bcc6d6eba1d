//! What a worker is told before its first claim: a schema or a role that its statements cannot work
//! with. What the schema itself says is compared in `schema.rs`.
#![allow(clippy::unwrap_used)]

mod support;

use outbox_core::{ErrorKind, Renewal, Storage, Verdict};
use outbox_sqlx::PgStorage;
use support::{TTL, claim, database, execute, expired, fill, pending, settle_all, texts};

#[tokio::test]
async fn a_column_that_is_missing_is_told_before_the_first_claim() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let columns = texts(
        &mut ours,
        "select table_name || ' rename column ' || column_name from information_schema.columns
         where table_schema = 'outbox' and table_name <> 'schema_version'",
    )
    .await;
    assert_eq!(columns.len(), 20 + 18);
    for column in columns {
        let rename = format!("alter table outbox.{column} to theirs");
        execute(&mut ours, &rename).await;
        let error = storage.check().await.expect_err(&column);
        assert_eq!(error.kind(), ErrorKind::SchemaDrift, "{column}: {error:?}");
        assert!(error.advice().contains("verify_schema()"), "{error}");
        let (table, name) = column.split_once(" rename column ").unwrap();
        let back = format!("alter table outbox.{table} rename column theirs to {name}");
        execute(&mut ours, &back).await;
    }
    storage.check().await.unwrap();
}

#[tokio::test]
async fn a_column_of_another_type_is_told_before_the_first_claim() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    for change in [
        "alter table outbox.message alter column payload type text using 'x'",
        "alter table outbox.message drop constraint message_attempts_check,
             alter column attempts drop default, alter column attempts type text",
        "alter table outbox.message alter column acquired_token type text",
        "alter table outbox.dead_letter alter column reason type int using 0",
    ] {
        execute(&mut ours, change).await;
        let error = storage.check().await.expect_err(change);
        assert_eq!(error.kind(), ErrorKind::SchemaDrift, "{change}: {error:?}");
        execute(&mut ours, "drop schema outbox cascade").await;
        storage.migrate().await.unwrap();
    }
    storage.check().await.unwrap();
}

#[tokio::test]
async fn a_missing_table_of_the_right_version_is_drift_and_not_unmigrated() {
    for table in ["message", "dead_letter"] {
        let database = database().await;
        let storage = database.storage().await;
        let mut ours = database.connect().await;
        execute(&mut ours, &format!("drop table outbox.{table}")).await;
        let error = storage.check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaDrift, "{error:?}");
        assert!(error.advice().contains("verify_schema()"), "{error}");
        assert!(
            format!("{error:?}").contains(&format!("outbox.{table}\"")),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_missing_permission_is_told_before_the_first_claim() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    let role = database.role("").await;
    let needed = [
        "usage on schema outbox",
        "select on outbox.schema_version",
        "select on outbox.message",
        "update on outbox.message",
        "delete on outbox.message",
        "select on outbox.dead_letter",
        "insert on outbox.dead_letter",
    ];
    let storage = PgStorage::connect_with(database.options_of(&role))
        .await
        .unwrap();
    for right in needed {
        execute(&mut ours, &format!("grant {right} to {role}")).await;
    }
    storage.check().await.unwrap();
    for right in needed {
        execute(&mut ours, &format!("revoke {right} from {role}")).await;
        let error = storage.check().await.expect_err(right);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{right}: {error:?}");
        assert_eq!(error.message(), "the database role lacks a permission");
        assert!(error.advice().starts_with("grant the role"), "{error}");
        execute(&mut ours, &format!("grant {right} to {role}")).await;
    }
    // And nothing that comes later needs more.
    fill(&mut ours, "q", 3).await;
    let held = claim(&storage, &pending("q", 3)).await;
    let renewal = Renewal::new(held.messages[0].held(), TTL);
    assert_eq!(storage.renew(&[renewal]).await.unwrap().renewed.len(), 1);
    let dead = Verdict::Dead {
        reason: outbox_core::DeadReason::Rejected,
        error: String::new(),
    };
    let mut settlements = settle_all(&held, &dead);
    settlements[1].verdict = Verdict::Done;
    settlements[2].verdict = Verdict::Release;
    assert_eq!(storage.settle(&settlements).await.unwrap().written.len(), 3);
    assert_eq!(claim(&storage, &expired("q", 3)).await.messages.len(), 0);
}

#[tokio::test]
async fn a_check_reads_and_writes_nothing() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 3).await;
    claim(&storage, &pending("q", 2)).await;
    support::expire(&mut ours).await;
    let all = "select m::text from outbox.message as m order by id";
    let before = texts(&mut ours, all).await;
    storage.check().await.unwrap();
    assert_eq!(texts(&mut ours, all).await, before);
    // The renewals' connection belongs to the heartbeat's thread, which opens it.
    assert_eq!(support::own_connections(&mut ours).await, 1);
}
