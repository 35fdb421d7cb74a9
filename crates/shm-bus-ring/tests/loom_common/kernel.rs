//! The kernel's part of sleeping: a futex and a bell, without the blocking. A thread that sleeps to the end of a
//! model is found by the last look.

use loom::sync::{Arc, Mutex};

/// Look at the word and queue up in one step; a wake finds who is queued.
#[derive(Clone)]
pub struct Futex(Arc<Mutex<Queue>>);

#[derive(Clone, Copy, Default)]
struct Queue {
    waits: bool,
    woken: bool,
}

impl Futex {
    pub fn new() -> Futex {
        Futex(Arc::new(Mutex::new(Queue::default())))
    }

    pub fn wait(&self, word: impl Fn() -> u64, expected: u64) {
        let mut queue = self.0.lock().unwrap();
        queue.waits = word() == expected;
    }

    pub fn wake(&self) {
        let mut queue = self.0.lock().unwrap();
        queue.woken |= queue.waits;
    }

    /// The sleep ends by itself.
    pub fn leave(&self) {
        *self.0.lock().unwrap() = Queue::default();
    }

    pub fn sleeps_on(&self) -> bool {
        let queue = self.0.lock().unwrap();
        queue.waits && !queue.woken
    }
}

/// A pipe that stays readable until it is drained.
#[derive(Clone)]
pub struct Bell(Arc<Mutex<bool>>);

impl Bell {
    pub fn new() -> Bell {
        Bell(Arc::new(Mutex::new(false)))
    }

    pub fn ring(&self) {
        *self.0.lock().unwrap() = true;
    }

    pub fn is_rung(&self) -> bool {
        *self.0.lock().unwrap()
    }

    pub fn drain(&self) {
        *self.0.lock().unwrap() = false;
    }
}
