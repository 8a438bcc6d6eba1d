//! Claiming, settling and renewing, one caller at a time; races are in `fencing.rs`.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use outbox_core::{
    ClaimRequest, DeadReason, Due, LeaseToken, MessageId, NewMessage, Renewal, Settlement, Source,
    Storage, Verdict,
};
use outbox_sqlx::PgOutbox;
use support::{
    claim, database, execute, expire, expired, fill, ids, lease, message, number, pending,
    settle_all,
};

#[tokio::test]
async fn messages_start_by_queue_priority_due_time_and_id() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let drafts = [
        message("b").priority(-3),
        message("a"),
        message("a").priority(3),
        message("a").priority(-1),
        message("a"),
    ];
    let written = PgOutbox::new()
        .enqueue_many(&mut ours, drafts)
        .await
        .unwrap();
    let id = |place: usize| written[place].id().unwrap();
    execute(
        &mut ours,
        &format!(
            "update outbox.message set next_attempt_at = now() - interval '1 hour' where id = {}",
            id(4)
        ),
    )
    .await;
    let queues = vec![lease("a"), lease("b")];
    let request = ClaimRequest::new(queues, 9, Source::Pending);
    let claimed = claim(&storage, &request).await;
    assert_eq!(ids(&claimed), [id(3), id(4), id(1), id(2), id(0)]);
}

#[tokio::test]
async fn the_limit_counts_over_all_queues_and_the_best_are_taken() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "a", 3).await;
    fill(&mut ours, "b", 3).await;
    let request = ClaimRequest::new(vec![lease("a"), lease("b")], 4, Source::Pending);
    let claimed = claim(&storage, &request).await;
    let queues: Vec<&str> = claimed
        .messages
        .iter()
        .map(|message| message.queue.as_ref())
        .collect();
    assert_eq!(queues, ["a", "a", "a", "b"]);
    assert_eq!(claimed.next_due, None);
}

#[tokio::test]
async fn each_queue_has_its_own_lease_time() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "a", 1).await;
    fill(&mut ours, "b", 1).await;
    let mut queues = vec![lease("a"), lease("b")];
    queues[1].lease_ttl = Duration::from_secs(600);
    claim(&storage, &ClaimRequest::new(queues, 9, Source::Pending)).await;
    let seconds = |queue: &str| {
        format!(
            "select extract(epoch from lease_expires_at - acquired_at)::bigint
             from outbox.message where queue = '{queue}'"
        )
    };
    assert_eq!(number(&mut ours, &seconds("a")).await, 30);
    assert_eq!(number(&mut ours, &seconds("b")).await, 600);
}

#[tokio::test]
async fn an_answer_without_messages_says_when_to_ask_again() {
    let database = database().await;
    let storage = database.storage().await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let empty = claim(&storage, &pending("q", 5)).await;
    assert_eq!((empty.next_due, empty.next_expiry), (None, None));
    let later = message("q").after(Duration::from_secs(100)).priority(2);
    outbox.enqueue(&mut ours, later).await.unwrap();
    outbox.enqueue(&mut ours, message("q")).await.unwrap();
    assert_eq!(claim(&storage, &pending("q", 5)).await.messages.len(), 1);
    let empty = claim(&storage, &pending("q", 5)).await;
    let due = empty.next_due.unwrap();
    let expiry = empty.next_expiry.unwrap();
    assert!(due > Duration::from_secs(90) && due <= Duration::from_secs(100));
    assert!(expiry > Duration::from_secs(20) && expiry <= Duration::from_secs(30));
    expire(&mut ours).await;
    let claimed = claim(&storage, &pending("q", 5)).await;
    assert_eq!(claimed.next_expiry, Some(Duration::ZERO));
}

#[tokio::test]
async fn a_leased_message_is_not_pending_and_a_pending_one_not_expired() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 1).await;
    assert_eq!(claim(&storage, &expired("q", 5)).await.messages.len(), 0);
    assert_eq!(claim(&storage, &pending("q", 5)).await.messages.len(), 1);
    assert_eq!(claim(&storage, &pending("q", 5)).await.messages.len(), 0);
    assert_eq!(claim(&storage, &expired("q", 5)).await.messages.len(), 0);
}

#[tokio::test]
async fn every_outcome_is_written_in_one_settle() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 6).await;
    let claimed = claim(&storage, &pending("q", 6)).await;
    let hour = Duration::from_secs(3600);
    let verdicts = [
        Verdict::Done,
        Verdict::Discard,
        Verdict::Retry {
            after: hour,
            error: "no\0t yet".to_owned(),
        },
        Verdict::Snooze { after: hour },
        Verdict::Release,
        Verdict::Dead {
            reason: DeadReason::Rejected,
            error: "never".to_owned(),
        },
    ];
    let mut settlements: Vec<Settlement> = claimed
        .messages
        .iter()
        .zip(verdicts)
        .map(|(message, verdict)| Settlement::new(message.held(), verdict))
        .collect();
    settlements.reverse();
    let mut settled = storage.settle(&settlements).await.unwrap().written;
    settled.sort();
    assert_eq!(settled, ids(&claimed));
    let of = |place: usize, what: &str| {
        format!(
            "select count(*) from outbox.message where id = {} and acquired_token is null
             and acquired_at is null and lease_expires_at is null and {what}",
            claimed.messages[place].id
        )
    };
    let later =
        "next_attempt_at between now() + interval '59 minutes' and now() + interval '1 hour'";
    for (place, what) in [
        (
            2,
            format!("attempts = 1 and last_error = 'no\u{fffd}t yet' and {later}"),
        ),
        (
            3,
            format!("attempts = 0 and last_error is null and {later}"),
        ),
        (
            4,
            "attempts = 0 and next_attempt_at < created_at + interval '1 minute'".to_owned(),
        ),
    ] {
        assert_eq!(number(&mut ours, &of(place, &what)).await, 1, "{what}");
    }
    assert_eq!(
        number(&mut ours, "select count(*) from outbox.message").await,
        3
    );
    let dead = format!(
        "select count(*) from outbox.dead_letter where message_id = {} and reason = 'rejected'
         and last_error = 'never' and attempts = 1 and deliveries = 1",
        claimed.messages[5].id
    );
    assert_eq!(number(&mut ours, &dead).await, 1);
    assert_eq!(
        number(&mut ours, "select count(*) from outbox.dead_letter").await,
        1
    );
    assert_eq!(storage.settle(&settlements).await.unwrap().written, []);
    assert_eq!(storage.settle(&[]).await.unwrap().written, []);
}

#[tokio::test]
async fn a_released_message_keeps_its_place_and_its_losses() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 2).await;
    claim(&storage, &pending("q", 1)).await;
    expire(&mut ours).await;
    let lost = claim(&storage, &expired("q", 1)).await;
    assert_eq!(lost.messages[0].lease_losses, 1);
    storage
        .settle(&settle_all(&lost, &Verdict::Release))
        .await
        .unwrap();
    let again = claim(&storage, &pending("q", 1)).await;
    assert_eq!(ids(&again), ids(&lost));
    let message = &again.messages[0];
    assert_eq!(
        (message.attempt, message.lease_losses, message.deliveries),
        (1, 1, 3)
    );
    let retry = Verdict::Retry {
        after: Duration::ZERO,
        error: "e".to_owned(),
    };
    storage.settle(&settle_all(&again, &retry)).await.unwrap();
    let losses = format!(
        "select lease_losses::bigint from outbox.message where id = {}",
        message.id
    );
    assert_eq!(number(&mut ours, &losses).await, 0);
}

#[tokio::test]
async fn a_renewal_lengthens_and_never_shortens() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 2).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    let held = claimed.messages[0].held();
    let left = "select extract(epoch from lease_expires_at - now())::bigint
        from outbox.message where acquired_token is not null";
    for (lease_ttl, expected) in [(600, 600), (10, 600), (700, 700)] {
        let renewal = Renewal::new(held, Duration::from_secs(lease_ttl));
        let renewed = storage.renew(&[renewal]).await.unwrap();
        assert_eq!(renewed.renewed, [held.id]);
        let left = number(&mut ours, left).await;
        assert!((expected - 5..=expected).contains(&left), "{left}");
    }
    assert!(storage.renew(&[]).await.unwrap().renewed.is_empty());
}

#[tokio::test]
async fn a_wrong_token_changes_nothing() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 2).await;
    let mut claimed = claim(&storage, &pending("q", 1)).await;
    let right = claimed.messages[0].token;
    let pending_id = MessageId(claimed.messages[0].id.0 + 1);
    claimed.messages[0].token = LeaseToken::random();
    let before = "select count(*) from outbox.message where acquired_token is not null";
    for verdict in [
        Verdict::Done,
        Verdict::Release,
        Verdict::Dead {
            reason: DeadReason::Exhausted,
            error: String::new(),
        },
    ] {
        let settlements = settle_all(&claimed, &verdict);
        assert_eq!(storage.settle(&settlements).await.unwrap().written, []);
    }
    let mut unleased = settle_all(&claimed, &Verdict::Done);
    unleased[0].id = pending_id;
    unleased[0].token = right;
    assert_eq!(storage.settle(&unleased).await.unwrap().written, []);
    let mut held = claimed.messages[0].held();
    let mut renewals = Vec::new();
    for id in [held.id, pending_id, MessageId(i64::MAX)] {
        held.id = id;
        renewals.push(Renewal::new(held, Duration::from_secs(60)));
    }
    let answer = storage.renew(&renewals).await.unwrap();
    assert_eq!(answer.renewed, []);
    assert_eq!(answer.lost.len(), 3);
    assert_eq!(number(&mut ours, before).await, 1);
    assert_eq!(
        number(&mut ours, "select count(*) from outbox.message").await,
        2
    );
    assert_eq!(
        number(&mut ours, "select count(*) from outbox.dead_letter").await,
        0
    );
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_by_its_token() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 5).await;
    let request = pending("q", 2);
    let first = claim(&storage, &request).await;
    expire(&mut ours).await;
    let again = claim(&storage, &request.clone().resumed()).await;
    assert_eq!(ids(&again), ids(&first));
    assert_eq!(again.messages[0].attempt, 1);
    assert_eq!(again.messages[0].deliveries, 1);
    let live = "select count(*) from outbox.message where lease_expires_at > now()";
    assert_eq!(number(&mut ours, live).await, 2);
    let fresh = pending("q", 2).resumed();
    assert_eq!(claim(&storage, &fresh).await.messages.len(), 2);
}

#[tokio::test]
async fn a_failing_dead_letter_insert_takes_the_delete_back() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 2).await;
    let claimed = claim(&storage, &pending("q", 2)).await;
    execute(
        &mut ours,
        "alter table outbox.dead_letter add check (reason <> 'rejected')",
    )
    .await;
    let mut settlements = settle_all(&claimed, &Verdict::Done);
    settlements[1].verdict = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: String::new(),
    };
    storage.settle(&settlements).await.unwrap_err();
    let held = "select count(*) from outbox.message where acquired_token is not null";
    assert_eq!(number(&mut ours, held).await, 2);
    settlements[1].verdict = Verdict::Done;
    assert_eq!(storage.settle(&settlements).await.unwrap().written.len(), 2);
}

/// Messages that have been due for long, so that claims pass them for good.
async fn fill_with_old(ours: &mut sqlx::PgConnection, count: usize) {
    fill(ours, "a", count).await;
    let old = "update outbox.message set next_attempt_at = '2020-01-01'";
    execute(ours, old).await;
}

#[tokio::test]
async fn what_comes_in_before_a_backlog_is_found_when_that_is_gone() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill_with_old(&mut ours, 2).await;
    claim(&storage, &pending("a", 2)).await;
    execute(
        &mut ours,
        "insert into outbox.message (queue, kind, payload, content_type, next_attempt_at)
         values ('a', 'k', 'x', 't', '2019-01-01')",
    )
    .await;
    let claimed = claim(&storage, &pending("a", 1)).await;
    assert_eq!(ids(&claimed), [MessageId(3)]);
}

#[tokio::test]
async fn what_commits_while_a_claim_is_slow_is_not_passed_over() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "a", 1).await;
    // The claim takes longer than commits do, and its message is due for less than they take.
    execute(
        &mut ours,
        "create function slow() returns trigger language plpgsql as $$ begin
             perform pg_catalog.pg_sleep(0.2);
             new.next_attempt_at = statement_timestamp() - interval '20 ms';
             return new;
         end $$;
         create trigger slow before update on outbox.message for each row execute function slow()",
    )
    .await;
    claim(&storage, &pending("a", 1)).await;
    execute(
        &mut ours,
        "drop trigger slow on outbox.message;
         insert into outbox.message (queue, kind, payload, content_type, next_attempt_at)
         select 'a', 'k', 'x', 't', next_attempt_at - late
         from outbox.message, unnest('{0,30 ms}'::interval[]) as late",
    )
    .await;
    let claimed = claim(&storage, &pending("a", 1)).await;
    assert_eq!(ids(&claimed), [MessageId(3)]);
}

#[tokio::test]
async fn what_a_storage_puts_before_a_backlog_itself_starts_first() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill_with_old(&mut ours, 9).await;
    let first = claim(&storage, &pending("a", 2)).await;
    let released = settle_all(&first, &Verdict::Release);
    assert_eq!(storage.settle(&released).await.unwrap().written.len(), 2);
    let again = claim(&storage, &pending("a", 1)).await;
    assert_eq!(ids(&again), [MessageId(1)], "released");

    let request = pending("a", 3);
    claim(&storage, &request).await;
    let mut request = request.resumed();
    request.limit = 1;
    claim(&storage, &request).await;
    let next = claim(&storage, &pending("a", 1)).await;
    assert_eq!(ids(&next), [MessageId(3)], "given back by a resumed claim");

    claim(&storage, &pending("a", 2)).await;
    let mut old = NewMessage::new("a", "k", b"x".to_vec());
    old.due = Due::At(SystemTime::UNIX_EPOCH);
    storage.enqueue(vec![old]).await.unwrap();
    let next = claim(&storage, &pending("a", 1)).await;
    assert_eq!(ids(&next), [MessageId(10)], "enqueued");
}

#[tokio::test]
async fn a_better_priority_starts_at_once_whatever_the_backlog() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill_with_old(&mut ours, 10).await;
    claim(&storage, &pending("a", 2)).await;
    let urgent = "insert into outbox.message (queue, kind, payload, content_type, priority)
        values ('a', 'k', 'x', 't', -1)";
    for id in 11..=13 {
        execute(&mut ours, urgent).await;
        let claimed = claim(&storage, &pending("a", 2)).await;
        assert_eq!(ids(&claimed)[0], MessageId(id));
    }
}
