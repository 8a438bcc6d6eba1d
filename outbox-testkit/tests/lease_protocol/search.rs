//! Every world that a protocol can come to, breadth first, so that a counterexample is a shortest
//! one.

use std::collections::{HashMap, VecDeque};

use crate::protocol::{Broken, Protocol};
use crate::step::Step;
use crate::world::World;

/// What the search found.
pub(crate) struct Explored {
    pub(crate) worlds: usize,
    /// The first broken world, with the steps that lead there.
    pub(crate) broken: Option<(Broken, Vec<Step>)>,
    /// Worlds from which the message can never come to its end.
    pub(crate) stuck: usize,
}

pub(crate) fn explore(protocol: &Protocol) -> Explored {
    let mut numbers = HashMap::from([(World::FIRST, 0)]);
    let mut worlds = vec![World::FIRST];
    let mut came_by: Vec<Option<(usize, Step)>> = vec![None];
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let mut waiting = VecDeque::from([0]);
    let mut broken = None;
    while let Some(number) = waiting.pop_front() {
        let world = worlds[number];
        if let (Some(rule), None) = (world.broken, &broken) {
            broken = Some((rule, path(&came_by, number)));
        }
        for (step, next) in world.next(protocol) {
            let next = *numbers.entry(next).or_insert_with(|| {
                worlds.push(next);
                came_by.push(Some((number, step)));
                before.push(Vec::new());
                waiting.push_back(worlds.len() - 1);
                worlds.len() - 1
            });
            before[next].push(number);
        }
    }
    Explored {
        worlds: worlds.len(),
        broken,
        stuck: stuck(&worlds, &before),
    }
}

fn path(came_by: &[Option<(usize, Step)>], mut number: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some((former, step)) = came_by[number] {
        steps.push(step);
        number = former;
    }
    steps.reverse();
    steps
}

/// Goes back from the final worlds; what is never met cannot reach one.
fn stuck(worlds: &[World], before: &[Vec<usize>]) -> usize {
    let mut can_end: Vec<_> = worlds.iter().map(World::is_final).collect();
    let mut waiting: Vec<_> = (0..worlds.len())
        .filter(|number| can_end[*number])
        .collect();
    while let Some(number) = waiting.pop() {
        for former in &before[number] {
            if !std::mem::replace(&mut can_end[*former], true) {
                waiting.push(*former);
            }
        }
    }
    can_end.iter().filter(|can_end| !**can_end).count()
}
