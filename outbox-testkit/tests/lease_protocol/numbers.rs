//! The numbers of tokens and calls in a world: new ones, and new names for old ones.

use crate::protocol::{Protocol, Tokens};
use crate::world::{Held, Run, World};

impl World {
    /// A number that nobody knows of.
    pub(crate) fn unused_token(&self) -> u8 {
        let mut world = *self;
        let mut largest = 0;
        world.each_token(|token| largest = largest.max(*token));
        largest + 1
    }

    pub(crate) fn unused_call(&self) -> u8 {
        let mut world = *self;
        let mut largest = 0;
        world.each_call(|call| largest = largest.max(*call));
        largest + 1
    }

    /// Gives calls, and tokens where they are random, the numbers of the order in which they are
    /// met: only whether they are the same matters, and so there are finitely many worlds.
    pub(crate) fn rename(&mut self, protocol: &Protocol) {
        let mut calls = Renaming::default();
        self.each_call(|call| *call = calls.name(*call));
        if protocol.tokens == Tokens::Random {
            let mut tokens = Renaming::default();
            self.each_token(|token| *token = tokens.name(*token));
        }
    }

    fn each_call(&mut self, mut visit: impl FnMut(&mut u8)) {
        visit(&mut self.stored.call);
        self.standby
            .iter_mut()
            .for_each(|stored| visit(&mut stored.call));
        self.each_held(|held| visit(&mut held.call));
    }

    fn each_token(&mut self, mut visit: impl FnMut(&mut u8)) {
        visit(&mut self.stored.token);
        self.standby
            .iter_mut()
            .for_each(|stored| visit(&mut stored.token));
        self.each_held(|held| visit(&mut held.token));
    }

    fn each_held(&mut self, mut visit: impl FnMut(&mut Held)) {
        for run in &mut self.runs {
            match run {
                Run::Idle => {}
                Run::Asking(held) | Run::Running { held, .. } | Run::Unsure { held, .. } => {
                    visit(held);
                }
            }
        }
        self.late.iter_mut().for_each(visit);
    }
}

/// New numbers in the order in which old ones are met; 0 stays 0.
#[derive(Default)]
struct Renaming([u8; 16], u8);

impl Renaming {
    fn name(&mut self, old: u8) -> u8 {
        if old == 0 {
            return 0;
        }
        let Self(names, last) = self;
        let name = &mut names[usize::from(old)];
        if *name == 0 {
            *last += 1;
            *name = *last;
        }
        *name
    }
}
