//! A file per test, and a few words the tests share.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use outbox_core::{
    Claim, ClaimRequest, Draft, MessageId, QueueLease, Settlement, Source, Storage, Verdict,
};
use outbox_sqlx::sqlite::{SqliteOutbox, SqliteStorage};
use outbox_testkit::sqlite::TestFile;
use sqlx::{AssertSqlSafe, SqliteConnection};

/// The clock of the storage: milliseconds since the Unix epoch.
pub(crate) const NOW: &str = "cast(round(unixepoch('subsec') * 1000) as integer)";

/// A new file without our tables.
pub(crate) fn file() -> TestFile {
    TestFile::new().unwrap()
}

/// A storage of that file, with connections of its own.
pub(crate) async fn storage_of(file: &TestFile) -> SqliteStorage {
    SqliteStorage::connect(&file.url()).await.unwrap()
}

/// A new file with our tables, and a storage of it.
pub(crate) async fn migrated() -> (TestFile, SqliteStorage) {
    let file = file();
    let storage = storage_of(&file).await;
    storage.migrate().await.unwrap();
    (file, storage)
}

pub(crate) async fn execute(connection: &mut SqliteConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub(crate) async fn number(connection: &mut SqliteConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub(crate) async fn texts(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub(crate) fn request(queue: &str, limit: usize, source: Source) -> ClaimRequest {
    let lease = QueueLease::new(queue, Duration::from_secs(30));
    ClaimRequest::new(vec![lease], limit, source)
}

pub(crate) fn pending(queue: &str, limit: usize) -> ClaimRequest {
    request(queue, limit, Source::Pending)
}

pub(crate) fn expired(queue: &str, limit: usize) -> ClaimRequest {
    request(queue, limit, Source::Expired)
}

pub(crate) async fn claim(storage: &SqliteStorage, request: &ClaimRequest) -> Claim {
    storage.claim(request).await.unwrap()
}

pub(crate) fn message(queue: &'static str) -> Draft {
    Draft::json(queue, "test", &1)
}

pub(crate) fn ids(claim: &Claim) -> Vec<MessageId> {
    claim.messages.iter().map(|message| message.id).collect()
}

/// A settle of everything a claim holds.
pub(crate) fn settlements(claim: &Claim, verdict: &Verdict) -> Vec<Settlement> {
    let held = claim.messages.iter().map(|message| message.held());
    held.map(|held| Settlement::new(held, verdict.clone()))
        .collect()
}

/// Enqueues `count` plain messages.
pub(crate) async fn fill(connection: &mut SqliteConnection, queue: &'static str, count: usize) {
    let drafts = (0..count).map(|_| message(queue));
    let enqueued = SqliteOutbox::new().enqueue_many(connection, drafts).await;
    assert_eq!(enqueued.unwrap().len(), count);
}

/// Makes every lease expired.
pub(crate) async fn expire(connection: &mut SqliteConnection) {
    let sql = "update outbox_message set lease_expires_at = {now} - 1000
        where acquired_token is not null";
    execute(connection, &sql.replace("{now}", NOW)).await;
}

pub(crate) const MESSAGES: &str = "select count(*) from outbox_message";
pub(crate) const LEASED: &str =
    "select count(*) from outbox_message where acquired_token is not null";
pub(crate) const DEAD: &str = "select count(*) from outbox_dead_letter";

/// Polls a future `polls` times at once, whether it asks for it or not, and leaves it there. With
/// many polls others have the time to do their part of its work.
pub(crate) async fn spin<F: Future>(polls: usize, mut future: Pin<&mut F>) -> Option<F::Output> {
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        context.waker().wake_by_ref();
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// How often [`spin`] polls: from not at all to far longer than a statement takes.
pub(crate) const SPINS: [usize; 7] = [0, 1, 3, 10, 100, 1_000, 20_000];

/// Fails where somebody still has the write lock after as long as a connection waits for it.
pub(crate) async fn assert_unlocked(connection: &mut SqliteConnection) {
    execute(connection, "begin immediate; commit").await;
}
