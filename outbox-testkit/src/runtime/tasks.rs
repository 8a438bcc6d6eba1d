//! Tasks, timers and threads, without a worker.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_channel::mpsc::unbounded;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use futures_util::stream::StreamExt;
use outbox_core::Runtime;

/// Two tasks that wait for each other both end.
pub async fn spawned_tasks_run_side_by_side(runtime: Arc<dyn Runtime>) {
    let (ping, pinged) = oneshot::channel();
    let (pong, ponged) = oneshot::channel();
    let (told, mut ended) = unbounded();
    let first = told.clone();
    runtime.spawn(Box::pin(async move {
        ping.send(()).expect("the other task waits");
        ponged.await.expect("the other task answers");
        first.unbounded_send("first").expect("the test waits");
    }));
    runtime.spawn(Box::pin(async move {
        pinged.await.expect("the other task is there");
        pong.send(()).expect("the other task waits");
        told.unbounded_send("second").expect("the test waits");
    }));
    let mut both = [ended.next().await, ended.next().await];
    both.sort_unstable();
    assert_eq!(both, [Some("first"), Some("second")]);
}

/// Nobody holds it, and nobody polls it but the runtime: it runs although the test blocks its
/// thread meanwhile.
pub async fn a_spawned_task_goes_on_by_itself(runtime: Arc<dyn Runtime>) {
    let (told, is_told) = mpsc::channel();
    let own = Arc::clone(&runtime);
    runtime.spawn(Box::pin(async move {
        for turn in 0..3 {
            own.sleep(Duration::from_millis(1)).await;
            told.send(turn).expect("the test waits");
        }
    }));
    assert_eq!(is_told.iter().collect::<Vec<_>>(), [0, 1, 2]);
}

/// A sleep that blocked its thread would keep the short one waiting for the long one.
pub async fn a_sleep_ends_after_its_time_and_holds_up_no_other(runtime: Arc<dyn Runtime>) {
    let short = Duration::from_millis(20);
    let long = runtime.sleep(Duration::from_secs(3600));
    let began = runtime.now();
    match select(long, runtime.sleep(short)).await {
        Either::Left(_) => panic!("an hour was over before {short:?}"),
        Either::Right(_) => assert!(runtime.now().duration_since(began) >= short),
    }
    runtime.sleep(Duration::ZERO).await;
}

/// It runs, its timers included, while tasks block every thread of the runtime and the test
/// blocks its own.
pub async fn a_thread_of_its_own_has_its_name_and_timers_of_its_own(runtime: Arc<dyn Runtime>) {
    let (began, has_begun) = mpsc::channel();
    let (release, go) = mpsc::channel::<()>();
    let go = Arc::new(Mutex::new(go));
    for _ in 0..64 {
        let (began, go) = (began.clone(), Arc::clone(&go));
        runtime.spawn(Box::pin(async move {
            // Both are gone once the test has its answer.
            let _ = began.send(());
            let _ = go.lock().map(|go| go.recv());
        }));
    }
    has_begun.recv().expect("one of them begins");
    let (told, is_told) = mpsc::channel();
    let own = Arc::clone(&runtime);
    let task = async move {
        for _ in 0..20 {
            own.sleep(Duration::from_millis(1)).await;
        }
        let name = thread::current().name().map(str::to_owned);
        told.send(name).expect("the test waits");
    };
    runtime
        .spawn_thread("apart", Box::pin(task))
        .expect("a thread can be started");
    let name = is_told.recv().expect("the thread goes on");
    assert_eq!(name.as_deref(), Some("apart"));
    drop(release);
}

/// More blocking code than the runtime has threads for tasks, and a task beside it.
pub async fn blocking_code_holds_up_no_task(runtime: Arc<dyn Runtime>) {
    let (told, mut ended) = unbounded();
    let mut releases = Vec::new();
    for _ in 0..8 {
        let (release, go) = mpsc::channel();
        releases.push(release);
        let told = told.clone();
        runtime.spawn_blocking(Box::new(move || {
            go.recv().expect("the test lets it go");
            told.unbounded_send("blocking").expect("the test waits");
        }));
    }
    let own = Arc::clone(&runtime);
    runtime.spawn(Box::pin(async move {
        own.sleep(Duration::from_millis(1)).await;
        told.unbounded_send("task").expect("the test waits");
    }));
    assert_eq!(ended.next().await, Some("task"));
    for release in releases {
        release.send(()).expect("it waits");
    }
    let rest: Vec<_> = ended.collect().await;
    assert_eq!(rest, ["blocking"; 8]);
}
