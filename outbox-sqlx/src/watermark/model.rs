//! The marks of several storages against a table in memory: claims and looks side by side that learn
//! in any order, fail, and are slow while a snapshot is held; messages that commit late, lie in the
//! past, are locked, released and retried; and a database whose clock is set.
//!
//! What holds is said by three rules: no claim passes a message that has waited for longer than a
//! sweep may take to come, no claim passes what its own storage has put back, and no empty answer
//! says that nothing is there while something is.

mod statements;

use std::collections::BTreeMap;

use super::leases::Look;
use super::pending::Reading;
use super::*;
use crate::rows::Leased;

const SECOND: Duration = Duration::from_secs(1);
/// From the moment in which a message can be had until a claim begins that may not pass it: a sweep
/// that has just missed it, the pause, and one that is under way.
const PATIENCE: Duration = Duration::from_millis(1_250);
/// The same while sweeps are slow, and until one of them was quick again.
const LONG_PATIENCE: Duration = Duration::from_secs(75);
const LIMIT: usize = 4;
/// The priorities of messages.
const USED: [i16; 5] = [-1, 0, 0, 0, 2];
const MILLI: i64 = 1_000;

/// Uniform enough, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn place(&mut self, places: usize) -> usize {
        usize::try_from(self.below(places as u64)).expect("it is one of them")
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    fn micros(&mut self, most_millis: u64) -> i64 {
        i64::try_from(self.below(most_millis) * 1_000).expect("it is small")
    }
}

struct Row {
    queue: &'static str,
    priority: i16,
    due_at: Timestamp,
    /// Not committed, or locked by somebody, before.
    free_at: Instant,
    /// When its lease ends.
    lease: Option<Timestamp>,
    /// Whether its holder has crashed.
    is_lost: bool,
    /// Since when it could be claimed, or its lease taken over.
    waits_since: Option<Instant>,
    /// The storage that has put it back, and the step in which its marks were told.
    put_back: Option<(usize, u64)>,
}

impl Row {
    const fn mark(&self, id: i64) -> Mark {
        Mark {
            due_at: self.due_at,
            id,
        }
    }
}

enum Work<'a> {
    Claim(Reading<'a>, Vec<Leased>),
    Look(Look<'a>, bool),
}

/// A call of a storage: its statement runs somewhere between the request and the answer.
struct Call<'a> {
    storage: usize,
    queues: &'a [QueueLease],
    work: Work<'a>,
    /// And in which step.
    begun: (Instant, u64),
    runs_at: Option<Instant>,
    answered_at: Instant,
    fails: bool,
    /// The second claim of a call whose first one found nothing after the marks.
    repeats: Option<Instant>,
}

struct World<'a> {
    random: Random,
    marks: &'a [Watermarks],
    requests: &'a [Vec<QueueLease>],
    rows: BTreeMap<i64, Row>,
    calls: Vec<Call<'a>>,
    next_id: i64,
    step: u64,
    start: Instant,
    now: Instant,
    /// How far the database's clock was set, in microseconds.
    set_by: i64,
    /// Whether storages put messages back themselves, and fail.
    doubts: bool,
    /// Until when sweeps are slow.
    held_until: Instant,
    /// Until when claims may pass messages for long.
    slow_until: Instant,
}

impl<'a> World<'a> {
    fn new(seed: u64, marks: &'a [Watermarks], requests: &'a [Vec<QueueLease>]) -> Self {
        let now = Instant::now();
        Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            marks,
            requests,
            rows: BTreeMap::new(),
            calls: Vec::new(),
            next_id: 1,
            step: 0,
            start: now,
            now,
            set_by: 0,
            doubts: seed.is_multiple_of(2),
            held_until: now,
            slow_until: now,
        }
    }

    fn clock(&self) -> Timestamp {
        let passed = self.now.duration_since(self.start).as_micros();
        let passed = i64::try_from(passed).expect("it is a test");
        Timestamp(1_000_000_000_000 + passed + self.set_by)
    }

    fn tick(&mut self, passed: Duration) {
        self.step += 1;
        self.now += passed;
        self.watch();
    }

    /// Notes what can be had and what cannot.
    fn watch(&mut self) {
        let (now, clock) = (self.now, self.clock());
        for row in self.rows.values_mut() {
            let due = row.lease.unwrap_or(row.due_at) <= clock;
            if due && row.free_at <= now {
                row.waits_since.get_or_insert(now);
            } else {
                row.waits_since = None;
            }
        }
    }

    /// Changes a row in a way after which it waits anew.
    fn change(&mut self, id: i64, change: impl FnOnce(&mut Row)) {
        let row = self.rows.get_mut(&id).expect("it is there");
        change(row);
        row.waits_since = None;
        row.put_back = None;
        self.watch();
    }

    /// One message, or a batch of one transaction that commits late.
    fn enqueue(&mut self) {
        let clock = self.clock();
        let batch = self.random.one_in(150);
        let back = match self.random.below(16) {
            // An instant of the past.
            0 => self.random.millis(0, 20_000),
            _ => Duration::ZERO,
        };
        let commits_in = if batch || self.random.one_in(16) {
            self.random.millis(0, 3_000)
        } else {
            Duration::ZERO
        };
        let mut due_at = clock.before(back);
        if self.random.one_in(8) {
            due_at.0 += self.random.micros(5_000);
        }
        let queue = ["a", "b"][usize::from(self.random.one_in(3))];
        let priority = USED[self.random.place(USED.len())];
        for _ in 0..if batch { 40 } else { 1 } {
            let row = Row {
                queue,
                priority,
                due_at,
                free_at: self.now + commits_in,
                lease: None,
                is_lost: false,
                waits_since: None,
                put_back: None,
            };
            self.rows.insert(self.next_id, row);
            self.next_id += 1;
        }
        if self.doubts && !back.is_zero() && commits_in.is_zero() {
            self.put_back(self.next_id - 1);
        }
        self.watch();
    }

    /// A storage has put this one before its marks.
    fn put_back(&mut self, id: i64) {
        let storage = self.random.place(2);
        self.marks[storage].doubt();
        self.note_put_back(id, storage);
    }

    /// Marks are told of what is before them only where sweeps are not slow.
    fn note_put_back(&mut self, id: i64, storage: usize) {
        if self.now >= self.slow_until {
            let row = self.rows.get_mut(&id).expect("it is there");
            row.put_back = Some((storage, self.step));
        }
    }

    /// Ends one lease, as its holder does.
    fn settle(&mut self) {
        let held = self.rows.iter();
        let held = held.filter(|(_, row)| row.lease.is_some() && !row.is_lost);
        let held: Vec<i64> = held.map(|(id, _)| *id).collect();
        if held.is_empty() {
            return;
        }
        let id = held[self.random.place(held.len())];
        match self.random.below(20) {
            0 => {
                self.change(id, |row| row.lease = None);
                // Or another program.
                if self.doubts {
                    self.put_back(id);
                }
            }
            1 => {
                let mut due_at = self.clock();
                due_at.0 += self.random.micros(1_000);
                self.change(id, |row| (row.lease, row.due_at) = (None, due_at));
            }
            _ => drop(self.rows.remove(&id)),
        }
    }

    fn lock(&mut self) {
        let lost = self.random.one_in(2);
        let rows = self.rows.iter().filter(|(_, row)| row.is_lost || !lost);
        let ids: Vec<i64> = rows.map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.random.place(ids.len())];
        let until = self.now + self.random.millis(0, 9_000);
        if self.rows[&id].free_at <= self.now {
            self.change(id, |row| row.free_at = until);
        }
    }

    fn begin(&mut self, storage: usize, repeats: Option<Instant>, calm: bool) {
        let request = self.random.place(self.requests.len());
        let request = if calm { 0 } else { request };
        let queues = &self.requests[request][..];
        let marks = &self.marks[storage];
        let work = if repeats.is_none() && self.random.one_in(4) {
            Work::Look(marks.look(queues, self.now), false)
        } else {
            Work::Claim(marks.read(queues, self.now), Vec::new())
        };
        let (now, runs_in) = (self.now, self.random.millis(0, 20));
        self.calls.push(Call {
            storage,
            queues,
            work,
            begun: (now, self.step),
            runs_at: Some(now + runs_in),
            answered_at: now,
            fails: self.doubts && !calm && self.random.one_in(12),
            repeats,
        });
    }

    /// Runs the statements and gives the answers whose time has come.
    fn proceed(&mut self, calm: bool) {
        let mut place = 0;
        while place < self.calls.len() {
            let mut call = self.calls.swap_remove(place);
            if call.runs_at.is_some_and(|at| at <= self.now) {
                call.runs_at = None;
                self.run(&mut call);
            }
            if call.runs_at.is_none() && call.answered_at <= self.now {
                self.answer(call, calm);
            } else {
                self.calls.push(call);
                let last = self.calls.len() - 1;
                self.calls.swap(place, last);
                place += 1;
            }
        }
    }

    fn run(&mut self, call: &mut Call<'_>) {
        let (storage, begun) = (call.storage, call.begun);
        let sweeps = match &mut call.work {
            Work::Claim(reading, found) => {
                let since: Vec<_> = reading.since().collect();
                let (messages, sweeps) = self.claim(storage, call.queues, &since, begun);
                *found = messages;
                sweeps
            }
            Work::Look(look, found_some) => {
                *found_some = self.take_over(call.queues, look.since(), begun);
                look.since().iter().any(Option::is_none)
            }
        };
        let takes = if sweeps && self.now < self.held_until {
            self.random.millis(60, 6_000)
        } else {
            self.random.millis(1, 20)
        };
        call.answered_at = self.now + takes;
    }

    fn lease(&mut self, ids: Vec<i64>) {
        let mut ends = self.clock();
        ends.0 += 5_000 * MILLI;
        for id in ids {
            let is_lost = self.random.one_in(60);
            self.change(id, |row| (row.lease, row.is_lost) = (Some(ends), is_lost));
        }
    }

    fn answer(&mut self, call: Call<'a>, calm: bool) {
        let (marks, now) = (&self.marks[call.storage], self.now);
        if now < self.held_until {
            // Each message stands for many.
            for lease in call.queues {
                (0..LEVELS).for_each(|level| marks.with(|s| s.count(&lease.queue, level, 10_000)));
            }
        }
        let (reading, found) = match call.work {
            Work::Look(look, found_some) if !call.fails => return look.answered(found_some, now),
            // A look that fails reads the real clock; one that is answered late learns the same.
            Work::Look(look, _) => return look.answered(true, now),
            Work::Claim(reading, found) => (reading, found),
        };
        if call.fails {
            // Its drop would read the real clock.
            reading.failed(now);
            std::mem::forget(reading);
            // The lost reply is asked for; what is beyond a smaller limit is released.
            marks.doubt();
            for one in found.iter().skip(1) {
                let id = one.claimed.id.0;
                if self.rows.get(&id).is_some_and(|row| row.lease.is_some()) {
                    self.change(id, |row| row.lease = None);
                    self.note_put_back(id, call.storage);
                }
            }
            return;
        }
        let reach = reading.answered(&found, LIMIT, now);
        let begun = call.repeats.unwrap_or(call.begun.0);
        if found.is_empty() && reach == Reach::NotYet && call.repeats.is_none() {
            self.begin(call.storage, Some(begun), calm);
        } else if found.is_empty() {
            self.look_ahead(call.storage, call.queues, begun, reach);
        }
    }
}

#[test]
fn no_message_is_passed_for_long_put_back_in_vain_or_forgotten() {
    let lease = |queue: &str| QueueLease::new(queue, SECOND * 5);
    let requests = [
        vec![lease("a"), lease("b")],
        vec![lease("b"), lease("a")],
        vec![lease("a")],
    ];
    for seed in 1..=6 {
        let marks = [Watermarks::default(), Watermarks::default()];
        let mut world = World::new(seed, &marks, &requests);
        // A snapshot is held never, for some of the time, or always.
        let (held, longest_step) = match seed % 3 {
            0 => (SECOND * 3_600, 150),
            1 => (Duration::ZERO, 20),
            _ => (SECOND * 20, 20),
        };
        // From little to do to more than the claims take.
        let busy = 2 + seed % 5;
        for step in 0..4_000 {
            let passed = world.random.millis(0, longest_step);
            world.tick(passed);
            world.proceed(false);
            for _ in 0..world.random.below(busy) {
                if world.rows.len() < 300 {
                    world.enqueue();
                }
            }
            for _ in 0..world.random.below(12) {
                world.settle();
            }
            if world.random.one_in(40) {
                world.lock();
            }
            if world.random.one_in(2_000) {
                world.set_by = world.random.micros(7_200_000) - 3_600_000 * MILLI;
                world.watch();
            }
            if step % 2_000 == 0 && !held.is_zero() {
                world.held_until = world.now + held;
                world.slow_until = world.held_until + LONG_PATIENCE;
            }
            let storage = world.random.place(2);
            let beside = world.calls.iter().filter(|call| call.storage == storage);
            if beside.count() < 3 && world.random.one_in(2) {
                world.begin(storage, None, false);
            }
        }
        // Nothing comes in any more, all that is to come is due, and what a handler works on is done.
        world.set_by += 7_200_000 * MILLI;
        for _ in 0..20_000 {
            let passed = world.random.millis(0, 20);
            world.tick(passed);
            world.proceed(true);
            world.settle();
            if world.calls.is_empty() {
                let storage = world.random.place(2);
                world.begin(storage, None, true);
            }
            if world.rows.is_empty() {
                break;
            }
        }
        let left = world.rows.len();
        assert!(world.rows.is_empty(), "{seed}: {left} are left");
    }
}
