//! Wake-ups: a commit of anybody is followed by a hint, and nothing else is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use outbox_core::{BoxFuture, BoxStream, Runtime, Storage, timeout};
use outbox_sqlx::sqlite::SqliteStorage;
use sqlx::Connection;

use crate::support::{execute, fill, message, migrated, pending};

/// Tokio, on which a second of backoff is 10 milliseconds.
struct FastRuntime;

impl Runtime for FastRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration / 100))
    }

    fn spawn_thread(&self, _: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        tokio::spawn(task);
        Ok(())
    }
}

fn hints(storage: &SqliteStorage) -> BoxStream<'static, ()> {
    storage.wake_ups(vec![Arc::from("q")], Arc::new(FastRuntime))
}

async fn hinted(hints: &mut BoxStream<'static, ()>) {
    let hint = tokio::time::timeout(Duration::from_secs(30), hints.next()).await;
    hint.expect("a hint comes").expect("the stream never ends");
}

/// Whether the stream is silent for a thousand looks of the default interval.
async fn is_silent(hints: &mut BoxStream<'static, ()>) -> bool {
    let silence = Duration::from_secs(20);
    timeout(&FastRuntime, silence, hints.next()).await.is_none()
}

#[tokio::test]
async fn a_commit_of_anybody_is_followed_by_a_hint_and_nothing_else_is() {
    let (file, storage) = migrated().await;
    let mut hints = hints(&storage);
    // What was committed while nobody looked.
    hinted(&mut hints).await;
    assert!(is_silent(&mut hints).await, "nobody writes");

    let mut caller = file.connect().await.unwrap();
    let outbox = storage.outbox();
    let mut tx = caller.begin().await.unwrap();
    outbox.enqueue(&mut tx, message("q")).await.unwrap();
    assert!(is_silent(&mut hints).await, "it is not committed yet");
    tx.commit().await.unwrap();
    hinted(&mut hints).await;
    assert!(is_silent(&mut hints).await, "one commit is one hint");

    let mut tx = caller.begin().await.unwrap();
    outbox.enqueue(&mut tx, message("q")).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(is_silent(&mut hints).await, "it was rolled back");

    // A claim that finds nothing does not wake its own worker.
    let nothing = storage.claim(&pending("none", 9)).await.unwrap();
    assert!(nothing.messages.is_empty());
    assert!(is_silent(&mut hints).await, "nothing was claimed");
}

#[tokio::test]
async fn without_an_interval_nobody_looks() {
    let (file, _storage) = migrated().await;
    let storage = SqliteStorage::options().wake_up_interval(None);
    let storage = storage.connect(&file.url()).await.unwrap();
    let mut hints = hints(&storage);
    fill(&mut file.connect().await.unwrap(), "q", 1).await;
    assert!(is_silent(&mut hints).await);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_for_a_while_ends_no_stream() {
    let (file, storage) = migrated().await;
    let path = file.folder().join("test.db");
    let aside = file.folder().join("aside.db");
    let mut caller = file.connect().await.unwrap();
    execute(&mut caller, "pragma wal_checkpoint(truncate)").await;
    caller.close().await.unwrap();
    drop(storage);
    std::fs::rename(&path, &aside).unwrap();
    let options = file.options().create_if_missing(false);
    let storage = SqliteStorage::options().prepare(options).unwrap();
    let mut hints = hints(&storage);
    assert!(is_silent(&mut hints).await, "there is no file");
    std::fs::rename(&aside, &path).unwrap();
    hinted(&mut hints).await;
}
