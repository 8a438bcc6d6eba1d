//! Opening the file: what a path or URL means, and what is said of a file that cannot be used.

use outbox_core::{ErrorKind, Storage};
use outbox_sqlx::sqlite::SqliteStorage;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

use crate::support::{claim, file, message, migrated, pending};

#[tokio::test]
async fn a_path_and_a_url_make_the_file_unless_they_say_otherwise() {
    let file = file();
    let path = file.folder().join("new & odd %.db");
    let path = path.to_str().unwrap();
    let escaped = path.replace('%', "%25");
    for url in [
        escaped.clone(),
        format!("sqlite:{escaped}"),
        format!("sqlite://{escaped}"),
        format!("sqlite://{escaped}?mode=rwc"),
        format!("sqlite://{escaped}?cache=private"),
    ] {
        let existing = format!("sqlite://{escaped}?mode=rw");
        let error = SqliteStorage::connect(&existing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
        SqliteStorage::connect(&url)
            .await
            .unwrap()
            .migrate()
            .await
            .unwrap();
        SqliteStorage::connect(&existing)
            .await
            .unwrap()
            .check()
            .await
            .unwrap();
        std::fs::remove_file(path).expect(&url);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_says_what_to_check() {
    let file = file();
    let missing = file.folder().join("none").join("test.db");
    let missing = SqliteStorage::connect(missing.to_str().unwrap()).await;
    let folder = SqliteStorage::connect(file.folder().to_str().unwrap()).await;
    for refused in [missing, folder] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("cannot be opened"), "{error}");
        assert!(error.advice().contains("folder"), "{error}");
    }
    let prepared = SqliteStorage::options()
        .prepare(SqliteConnectOptions::new().filename(file.folder().join("none.db")));
    let error = prepared.unwrap().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn urls_of_other_databases_and_unknown_settings_are_refused() {
    for url in [
        "postgres://localhost/shop",
        "mysql://localhost/shop",
        "sqlite://test.db?mode=never",
        "sqlite://test.db?unknown=1",
        "sqlite://%ff.db",
    ] {
        let error = SqliteStorage::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
        assert!(error.advice().contains("sqlite://"), "{url}: {error}");
    }
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    for url in [
        ":memory:",
        "sqlite::memory:",
        "sqlite://shared?mode=memory&cache=shared",
        "sqlite:file::memory:",
        "",
    ] {
        let error = SqliteStorage::connect(url).await.expect_err(url);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}: {error:?}");
        assert!(error.advice().contains("MemoryStorage"), "{url}: {error}");
    }
    let options = SqliteConnectOptions::new();
    let error = SqliteStorage::connect_with(options).await.unwrap_err();
    assert!(error.to_string().contains("in memory"), "{error}");
}

#[tokio::test]
async fn a_file_that_can_only_be_read_is_told_before_the_first_claim() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    storage
        .outbox()
        .enqueue(&mut ours, message("q"))
        .await
        .unwrap();
    let options = file.options().read_only(true).create_if_missing(false);
    let reader = SqliteStorage::connect_with(options).await.unwrap();
    let error = reader.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("only be read"), "{error}");
    let error = reader.claim(&pending("q", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    reader.verify_schema().await.unwrap();
    assert_eq!(claim(&storage, &pending("q", 1)).await.messages.len(), 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told() {
    let file = file();
    let path = file.folder().join("test.db");
    std::fs::write(&path, "name,address\n".repeat(1000)).unwrap();
    let connecting = SqliteStorage::connect(&file.url()).await.map(drop);
    let prepared = SqliteStorage::options().prepare(file.options()).unwrap();
    for told in [connecting, prepared.check().await, prepared.migrate().await] {
        let error = told.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(
            error.to_string().contains("not a SQLite database"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn settings_of_the_callers_options_do_not_change_the_order() {
    let (file, _storage) = migrated().await;
    let options = file
        .options()
        .busy_timeout(std::time::Duration::ZERO)
        .row_buffer_size(1)
        .command_buffer_size(1)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("reverse_unordered_selects", "on")
        .foreign_keys(false);
    let storage = SqliteStorage::connect_with(options).await.unwrap();
    let mut ours = file.connect().await.unwrap();
    let outbox = storage.outbox();
    for priority in [3, 0, -3, 0] {
        let draft = message("q").priority(priority);
        outbox.enqueue(&mut ours, draft).await.unwrap();
    }
    let two = claim(&storage, &pending("q", 2)).await;
    let ids: Vec<i64> = two.messages.iter().map(|message| message.id.0).collect();
    assert_eq!(ids, [3, 2]);
}
