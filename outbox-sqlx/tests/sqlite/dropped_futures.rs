//! Every public future, dropped after each number of polls: no half state, no lost message, no
//! transaction left open and no unusable connection.

use std::pin::pin;
use std::time::Duration;

use outbox_core::{DeadReason, Renewal, Storage, Verdict};
use outbox_sqlx::DeadLetterQuery;
use outbox_sqlx::sqlite::{SqliteOutbox, SqliteStorage};
use outbox_testkit::drop_after;
use outbox_testkit::sqlite::TestFile;
use sqlx::{Connection, SqliteConnection};

use crate::support::{
    DEAD, LEASED, MESSAGES, SPINS, assert_unlocked, claim, execute, expire, expired, file, fill,
    ids, message, migrated, number, pending, settlements, spin, storage_of,
};

/// More polls than any call takes.
const MOST_POLLS: usize = 200;

/// More rounds than it takes until a call waits at least once.
const MOST_ROUNDS: usize = 100;

/// Runs `step` with a growing number of polls until the call under test completes. Where SQLite's
/// thread answers within the first poll nothing was interrupted, so that round is repeated.
async fn with_every_drop(mut step: impl AsyncFnMut(usize) -> bool) {
    for _ in 0..MOST_ROUNDS {
        let mut polls = 0;
        while !step(polls).await {
            polls += 1;
            assert!(polls < MOST_POLLS, "the call does not complete");
        }
        if polls > 1 {
            return;
        }
    }
    panic!("the call was never interrupted");
}

/// A storage without an open connection, which makes for more polls.
fn unopened(file: &TestFile) -> SqliteStorage {
    SqliteStorage::options().prepare(file.options()).unwrap()
}

async fn count(observer: &mut SqliteConnection, sql: &str) -> i64 {
    number(observer, sql).await
}

#[tokio::test]
async fn connect_migrate_verify_and_check() {
    with_every_drop(async |polls| {
        let file = file();
        let url = file.url();
        let done = drop_after(polls, SqliteStorage::connect(&url)).await;
        storage_of(&file).await.migrate().await.unwrap();
        done.is_some()
    })
    .await;
    with_every_drop(async |polls| {
        let file = file();
        let done = drop_after(polls, unopened(&file).migrate()).await;
        let mut observer = file.connect().await.unwrap();
        assert_unlocked(&mut observer).await;
        let tables = "select count(*) from sqlite_schema where name like 'outbox%'
            and type = 'table'";
        let tables = count(&mut observer, tables).await;
        assert!(tables == 0 || tables == 3, "{tables} tables");
        let storage = storage_of(&file).await;
        storage.migrate().await.unwrap();
        storage.verify_schema().await.unwrap();
        done.is_some()
    })
    .await;
    let (file, _storage) = migrated().await;
    with_every_drop(async |polls| {
        let storage = unopened(&file);
        let done = drop_after(polls, storage.verify_schema()).await;
        storage.verify_schema().await.unwrap();
        done.is_some()
    })
    .await;
    with_every_drop(async |polls| {
        let storage = unopened(&file);
        let done = drop_after(polls, storage.check()).await;
        storage.check().await.unwrap();
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn enqueue_and_cancel_in_a_transaction() {
    let (file, _storage) = migrated().await;
    let outbox = SqliteOutbox::new();
    let mut observer = file.connect().await.unwrap();
    let kept = message("kept").key("k");
    let id = outbox.enqueue(&mut observer, kept).await.unwrap().id();
    for call in 0..4 {
        with_every_drop(async |polls| {
            let mut ours = file.connect().await.unwrap();
            let mut tx = ours.begin_with("begin immediate").await.unwrap();
            let done = match call {
                0 => {
                    let one = outbox.enqueue(&mut tx, message("q"));
                    drop_after(polls, one).await.is_some()
                }
                1 => {
                    let many = outbox.enqueue_many(&mut tx, [message("q"), message("q")]);
                    drop_after(polls, many).await.is_some()
                }
                2 => {
                    let cancel = outbox.cancel(&mut tx, id.unwrap());
                    drop_after(polls, cancel).await.is_some()
                }
                _ => {
                    let cancel = outbox.cancel_key(&mut tx, "kept", "none");
                    drop_after(polls, cancel).await.is_some()
                }
            };
            tx.rollback().await.unwrap();
            assert_unlocked(&mut observer).await;
            assert_eq!(count(&mut observer, MESSAGES).await, 1);
            // The connection is as good as before.
            let mut tx = ours.begin_with("begin immediate").await.unwrap();
            outbox.enqueue(&mut tx, message("q")).await.unwrap();
            tx.rollback().await.unwrap();
            done
        })
        .await;
    }
}

#[tokio::test]
async fn enqueue_of_the_storage() {
    let (file, _storage) = migrated().await;
    let mut observer = file.connect().await.unwrap();
    with_every_drop(async |polls| {
        let storage = unopened(&file);
        let messages = |tag: String| {
            let draft = || message("q").tag(tag.clone()).check(100).unwrap();
            vec![draft(), draft(), draft()]
        };
        let done = drop_after(polls, storage.enqueue(messages(format!("dropped {polls}")))).await;
        assert_unlocked(&mut observer).await;
        let written = storage.enqueue(messages(format!("again {polls}"))).await;
        assert_eq!(written.unwrap().len(), 3);
        done.is_some()
    })
    .await;
    let torn = "select count(*) from (
        select 1 from outbox_message group by tag having count(*) <> 3)";
    assert_eq!(count(&mut observer, torn).await, 0);
}

#[tokio::test]
async fn claim_of_pending_messages_and_of_expired_leases() {
    let (file, _storage) = migrated().await;
    let mut observer = file.connect().await.unwrap();
    for lapsed in [false, true] {
        with_every_drop(async |polls| {
            let storage = unopened(&file);
            fill(&mut observer, "q", 5).await;
            // Large messages are read after the commit.
            let large = "update outbox_message set payload = zeroblob(2000) where id % 2 = 0";
            execute(&mut observer, large).await;
            let request = if lapsed {
                claim(&storage_of(&file).await, &pending("q", 5)).await;
                expire(&mut observer).await;
                expired("q", 2)
            } else {
                pending("q", 2)
            };
            let done = drop_after(polls, storage.claim(&request)).await;
            assert_unlocked(&mut observer).await;
            let token = request.token.as_uuid().simple().to_string();
            let ours = format!("{MESSAGES} where acquired_token = unhex('{token}')");
            let leased = count(&mut observer, &ours).await;
            assert!(leased == 0 || leased == 2, "{leased} leased");
            let again = claim(&storage, &request.clone().resumed()).await;
            assert_eq!(again.messages.len(), 2);
            assert_eq!(count(&mut observer, &ours).await, 2);
            execute(&mut observer, "delete from outbox_message").await;
            done.is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn settle() {
    let (file, _storage) = migrated().await;
    let mut observer = file.connect().await.unwrap();
    with_every_drop(async |polls| {
        let storage = unopened(&file);
        fill(&mut observer, "q", 3).await;
        let claimed = claim(&storage_of(&file).await, &pending("q", 3)).await;
        let mut settlements = settlements(&claimed, &Verdict::Done);
        settlements[1].verdict = Verdict::Release;
        settlements[2].verdict = Verdict::Dead {
            reason: DeadReason::Rejected,
            error: String::new(),
        };
        let done = drop_after(polls, storage.settle(&settlements)).await;
        assert_unlocked(&mut observer).await;
        let state = (
            count(&mut observer, MESSAGES).await,
            count(&mut observer, LEASED).await,
            count(&mut observer, DEAD).await,
        );
        assert!(state == (3, 3, 0) || state == (1, 0, 1), "{state:?}");
        let again = storage.settle(&settlements).await.unwrap().written;
        assert_eq!(again.len(), if state.1 == 3 { 3 } else { 0 });
        let clean = "delete from outbox_message; delete from outbox_dead_letter";
        execute(&mut observer, clean).await;
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn renew() {
    let (file, holder) = migrated().await;
    let mut observer = file.connect().await.unwrap();
    fill(&mut observer, "q", 1).await;
    let claimed = claim(&holder, &pending("q", 1)).await;
    let held = claimed.messages[0].held();
    let renewals = [Renewal::new(held, Duration::from_secs(60))];
    with_every_drop(async |polls| {
        let storage = unopened(&file);
        let done = drop_after(polls, storage.renew(&renewals)).await;
        assert_unlocked(&mut observer).await;
        assert_eq!(count(&mut observer, LEASED).await, 1);
        let renewed = storage.renew(&renewals).await.unwrap();
        assert_eq!(renewed.renewed, ids(&claimed));
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn dead_letter_verbs() {
    let (file, storage) = migrated().await;
    let mut observer = file.connect().await.unwrap();
    let all = DeadLetterQuery::all();
    with_every_drop(async |polls| {
        fill(&mut observer, "q", 1).await;
        let claimed = claim(&storage, &pending("q", 1)).await;
        let id = ids(&claimed)[0];
        let dead = Verdict::Dead {
            reason: DeadReason::Rejected,
            error: String::new(),
        };
        let written = storage.settle(&settlements(&claimed, &dead)).await;
        assert_eq!(written.unwrap().written, [id]);
        let unopened = unopened(&file);
        let done = drop_after(polls, unopened.revive(id)).await;
        assert_unlocked(&mut observer).await;
        let state = (
            count(&mut observer, MESSAGES).await,
            count(&mut observer, DEAD).await,
        );
        assert!(state == (0, 1) || state == (1, 0), "{state:?}");
        unopened.revive(id).await.unwrap();
        assert_eq!(count(&mut observer, MESSAGES).await, 1);
        execute(&mut observer, "delete from outbox_message").await;
        done.is_some()
    })
    .await;
    with_every_drop(async |polls| {
        let storage = unopened(&file);
        let done = drop_after(polls, storage.dead_letters(&all)).await;
        storage.dead_letters(&all).await.unwrap();
        done.is_some()
    })
    .await;
    with_every_drop(async |polls| {
        let storage = unopened(&file);
        let purge = || storage.purge_dead_letters(None, Duration::ZERO);
        let done = drop_after(polls, purge()).await;
        assert_unlocked(&mut observer).await;
        purge().await.unwrap();
        done.is_some()
    })
    .await;
}

/// How many connections are open whose threads have this name.
#[cfg(target_os = "linux")]
fn connections(name: &str) -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names = threads.filter_map(|thread| {
        let name = thread.ok()?.path().join("comm");
        std::fs::read_to_string(name).ok()
    });
    names.filter(|found| found.trim_end() == name).count()
}

/// The thread of a dropped call may wait for the lock still, and gets it when nobody expects that.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_claim_dropped_while_it_waits_for_the_lock_leases_nothing_later() {
    let (file, _storage) = migrated().await;
    let mut other = file.connect().await.unwrap();
    fill(&mut other, "q", 4).await;
    let options = file.options().thread_name(|_| "dropped-claim".to_owned());
    for polls in SPINS {
        let storage = SqliteStorage::connect_with(options.clone()).await.unwrap();
        let tx = other.begin_with("begin immediate").await.unwrap();
        let request = pending("q", 2);
        {
            let claiming = pin!(storage.claim(&request));
            assert!(spin(polls, claiming).await.is_none());
        }
        tx.commit().await.unwrap();
        while polls > 0 && connections("dropped-claim") > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(count(&mut other, LEASED).await, 0, "after {polls} polls");
        let resumed = claim(&storage, &request.clone().resumed()).await;
        assert_eq!(resumed.messages.len(), 2);
        assert_eq!(count(&mut other, LEASED).await, 2);
        let released = settlements(&resumed, &Verdict::Release);
        let released = storage.settle(&released).await;
        assert_eq!(released.unwrap().written.len(), 2);
        drop(storage);
        while connections("dropped-claim") > 0 {
            tokio::task::yield_now().await;
        }
    }
}
