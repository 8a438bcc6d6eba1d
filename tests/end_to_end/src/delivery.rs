//! From the commit to the outcome.

use std::time::Duration;

use futures_channel::mpsc::unbounded;
use futures_util::stream::StreamExt;
use outbox::prelude::*;

use crate::backend::{Backend, Ending};
use crate::support::{Leg, POLL, Teller};

#[job(queue = "mail", max_attempts = 3)]
async fn welcome(name: String, attempt: Attempt, Data(told): Data<Teller>) -> outbox::Result {
    let Attempt { number, of, .. } = attempt;
    told.unbounded_send(format!("welcome {name} {number}/{of}"))?;
    Ok(())
}

fn welcomes(names: &[&str]) -> Vec<Draft> {
    let names = names.iter().copied().map(str::to_owned);
    names.map(welcome::job).collect()
}

/// Two transactions commit and one rolls back; their messages run once, or never were.
pub async fn what_commits_is_delivered_and_what_rolls_back_never_existed<B: Backend>(leg: Leg<B>) {
    let enqueue = async |names: &[&str], ending| leg.backend.enqueue(welcomes(names), ending).await;
    enqueue(&["ann", "bob"], Ending::Commit).await;
    enqueue(&["ghost"], Ending::Rollback).await;
    enqueue(&["cid"], Ending::Commit).await;
    assert_eq!(leg.backend.messages().await, 3);

    let (teller, told) = unbounded();
    let worker = leg.worker().await.data::<Teller>(teller);
    let report = leg.run_until_idle(worker.register::<welcome>()).await;
    assert_eq!((report.started, report.done), (3, 3));
    let mut told: Vec<String> = told.take(3).collect().await;
    told.sort();
    assert_eq!(
        told,
        ["welcome ann 1/3", "welcome bob 1/3", "welcome cid 1/3"]
    );
    assert_eq!(leg.backend.messages().await, 0);
}

#[job(queue = "mail", max_attempts = 2)]
async fn refuse(_: (), attempt: Attempt, Data(told): Data<Teller>) -> outbox::Result {
    told.unbounded_send(format!("attempt {}", attempt.number))?;
    Err(Failure::retry_in(Duration::from_millis(50), "refused"))
}

/// The worker polls every ten minutes: only the due time of the retry can have started it.
pub async fn a_failing_handler_is_retried_when_it_is_due_and_ends_as_a_dead_letter<B: Backend>(
    leg: Leg<B>,
) {
    let refused = vec![refuse::job(())];
    leg.backend.enqueue(refused, Ending::Commit).await;
    let (teller, mut told) = unbounded();
    let worker = leg.worker().await.data::<Teller>(teller);
    let running = leg.start(worker.poll_interval(POLL).register::<refuse>());
    for expected in ["attempt 1", "attempt 2"] {
        let ran = leg.within(expected, told.next()).await;
        assert_eq!(ran.as_deref(), Some(expected));
    }
    let report = leg.stop(running).await;
    assert_eq!((report.retried, report.dead), (1, 1));
    assert_eq!(leg.backend.messages().await, 0);
    assert_eq!(leg.backend.dead_letters().await, ["exhausted"]);
}

/// The worker polls every ten minutes: only the wake-up can have started them.
pub async fn an_enqueue_wakes_an_idle_worker_long_before_its_poll<B: Backend>(leg: Leg<B>) {
    let (teller, mut told) = unbounded();
    let worker = leg.worker().await.data::<Teller>(teller);
    let running = leg.start(worker.poll_interval(POLL).register::<welcome>());
    leg.until_listening().await;
    // Twice: the first may coincide with the hint the listener gives when it connects.
    for name in ["ann", "bob"] {
        let welcome = welcomes(&[name]);
        leg.backend.enqueue(welcome, Ending::Commit).await;
        let started = leg.within("it starts", told.next()).await;
        assert_eq!(started, Some(format!("welcome {name} 1/3")));
    }
    assert_eq!(leg.stop(running).await.done, 2);
}
