//! The simulated runtime keeps its word: virtual time, seeded order, deadlocks named.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{self, join_all};
use outbox_core::{MemoryStorage, Runtime, timeout};
use outbox_testkit::{SimProcess, SimRuntime};

const HOUR: Duration = Duration::from_secs(3600);

fn order_of_ten_tasks(seed: u64) -> Vec<usize> {
    let sim = SimRuntime::new(seed);
    let order = Arc::new(Mutex::new(Vec::new()));
    for number in 0..10 {
        let order = Arc::clone(&order);
        sim.spawn(Box::pin(async move {
            order.lock().expect("no panic").push(number);
        }));
    }
    sim.block_on(sim.sleep(HOUR));
    let order = order.lock().expect("no panic");
    order.clone()
}

fn panic_text(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it must panic");
    *panic.downcast::<String>().expect("a formatted message")
}

#[test]
fn the_seed_decides_the_order_and_repeats_it() {
    assert_eq!(order_of_ten_tasks(1), order_of_ten_tasks(1));
    assert_ne!(order_of_ten_tasks(1), order_of_ten_tasks(2));
    let mut sorted = order_of_ten_tasks(3);
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn the_seed_decides_the_random_numbers_of_the_code_under_test() {
    let draw = || SimRuntime::new(5).block_on(async { fastrand::u64(..) });
    assert_eq!(draw(), draw());
}

#[test]
fn time_jumps_from_timer_to_timer_in_their_order() {
    let sim = SimRuntime::new(1);
    let fired = join_all((1..=5_000_u32).rev().map(|minutes| {
        let sleep = sim.sleep(Duration::from_secs(60) * minutes);
        let sim = sim.clone();
        async move {
            sleep.await;
            sim.elapsed() == Duration::from_secs(60) * minutes
        }
    }));
    assert!(sim.block_on(fired).into_iter().all(|in_time| in_time));
    assert_eq!(sim.elapsed(), Duration::from_secs(300_000));
}

#[test]
fn a_dropped_timer_does_not_move_time() {
    let sim = SimRuntime::new(1);
    let start = sim.now();
    sim.block_on(async {
        let slow = sim.sleep(HOUR * 10);
        assert_eq!(timeout(&sim, HOUR, slow).await, None);
        assert_eq!(timeout(&sim, HOUR, async { 7 }).await, Some(7));
        sim.sleep(HOUR).await;
    });
    assert_eq!(sim.now() - start, HOUR * 2);
}

#[test]
fn the_storage_clock_moves_with_virtual_time() {
    let sim = SimRuntime::new(1);
    let storage = MemoryStorage::new();
    sim.drive(&storage);
    let start = storage.now();
    sim.block_on(sim.sleep(HOUR));
    assert_eq!(storage.now(), start + HOUR);
}

#[test]
fn a_deadlock_panics_and_names_the_seed() {
    let text = panic_text(|| SimRuntime::new(4711).block_on(future::pending()));
    assert!(text.contains("deadlock") && text.contains("4711"), "{text}");
    let sim = SimRuntime::new(4712);
    let text = panic_text(|| sim.block_on(sim.sleep(Duration::MAX)));
    assert!(text.contains("deadlock") && text.contains("4712"), "{text}");
}

#[test]
fn another_thread_may_wake() {
    let sim = SimRuntime::new(1);
    let polls = AtomicUsize::new(0);
    sim.block_on(poll_fn(|context| {
        if polls.fetch_add(1, Ordering::Relaxed) == 2 {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        let woken = std::thread::spawn(move || waker.wake()).join();
        woken.expect("a wake does not panic");
        Poll::Pending
    }));
}

#[test]
fn blocking_code_and_threads_of_their_own_run_as_tasks() {
    let sim = SimRuntime::new(1);
    let ran = Arc::new(AtomicUsize::new(0));
    let (blocking, thread) = (Arc::clone(&ran), Arc::clone(&ran));
    sim.spawn_blocking(Box::new(move || {
        blocking.fetch_add(1, Ordering::Relaxed);
    }));
    let sleep = sim.sleep(HOUR);
    sim.spawn_thread(
        "heartbeat",
        Box::pin(async move {
            sleep.await;
            thread.fetch_add(1, Ordering::Relaxed);
        }),
    )
    .expect("it only spawns");
    sim.block_on(sim.sleep(HOUR * 2));
    assert_eq!(ran.load(Ordering::Relaxed), 2);
}

#[test]
fn killing_drops_what_was_spawned() {
    let sim = SimRuntime::new(1);
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let sleep = sim.sleep(HOUR);
    sim.spawn(Box::pin(async move {
        sleep.await;
        drop(held);
    }));
    sim.block_on(sim.sleep(Duration::from_secs(1)));
    assert_eq!(Arc::strong_count(&alive), 2);
    sim.kill_spawned();
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn a_killed_process_drops_what_it_holds_and_runs_nothing_more() {
    let sim = SimRuntime::new(1);
    let (killed, other) = (SimProcess::new(&sim), SimProcess::new(&sim));
    let alive = Arc::new(());
    for process in [&killed, &other] {
        let (held, sleep) = (Arc::clone(&alive), process.sleep(HOUR));
        process.spawn(Box::pin(async move {
            sleep.await;
            drop(held);
        }));
    }
    sim.block_on(sim.sleep(Duration::from_secs(1)));
    assert_eq!(Arc::strong_count(&alive), 3);
    killed.kill();
    killed.go_on();
    sim.block_on(sim.sleep(Duration::from_secs(1)));
    assert_eq!(Arc::strong_count(&alive), 2, "the other goes on");
    let held = Arc::clone(&alive);
    killed.spawn(Box::pin(async move { drop(held) }));
    sim.block_on(sim.sleep(Duration::from_secs(1)));
    assert!(killed.is_killed() && !other.is_killed());
    sim.block_on(sim.sleep(HOUR));
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn a_stopped_process_misses_its_timers_until_it_goes_on() {
    let sim = SimRuntime::new(1);
    let process = SimProcess::new(&sim);
    let woke = Arc::new(Mutex::new(None));
    let (own, sleep, clock) = (Arc::clone(&woke), process.sleep(HOUR), sim.clone());
    process.spawn(Box::pin(async move {
        sleep.await;
        *own.lock().expect("no panic") = Some(clock.elapsed());
    }));
    process.stop();
    sim.block_on(sim.sleep(HOUR * 3));
    assert!(process.is_stopped());
    assert_eq!(*woke.lock().expect("no panic"), None);
    process.go_on();
    sim.block_on(sim.sleep(HOUR));
    assert_eq!(*woke.lock().expect("no panic"), Some(HOUR * 3));
}

#[test]
fn the_seed_and_not_the_order_of_wakes_decides_who_runs_next() {
    let order = |reverse: bool| {
        let sim = SimRuntime::new(4);
        let order = Arc::new(Mutex::new(Vec::new()));
        let events: Vec<_> = (0..10)
            .map(|_| futures_channel::oneshot::channel())
            .collect();
        let (mut senders, receivers): (Vec<futures_channel::oneshot::Sender<()>>, Vec<_>) =
            events.into_iter().unzip();
        for (number, receiver) in receivers.into_iter().enumerate() {
            let order = Arc::clone(&order);
            sim.spawn(Box::pin(async move {
                let _ = receiver.await;
                order.lock().expect("no panic").push(number);
            }));
        }
        sim.block_on(sim.sleep(HOUR));
        if reverse {
            senders.reverse();
        }
        drop(senders);
        sim.block_on(sim.sleep(HOUR));
        let order = order.lock().expect("no panic");
        order.clone()
    };
    assert_eq!(order(false), order(true));
}

#[test]
fn the_running_runtime_is_known_on_its_thread_only_while_it_runs() {
    let sim = SimRuntime::new(9);
    assert!(SimRuntime::current().is_none());
    let seed = sim.block_on(async { SimRuntime::current().map(|sim| sim.seed()) });
    assert_eq!(seed, Some(9));
    assert!(SimRuntime::current().is_none());
}
