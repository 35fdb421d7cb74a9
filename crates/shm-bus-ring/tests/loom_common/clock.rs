//! Makes every access to shared words depend on every other, for loom's scheduler.

use std::sync::Mutex;

use loom::sync::Arc;
use loom::thread;

/// One object that every access touches; see the description of `loom_common`.
#[derive(Clone)]
pub struct Clock(std::sync::Arc<Hands>);

struct Hands {
    root: Arc<()>,
    of: Mutex<Vec<(thread::ThreadId, Option<Arc<()>>)>>,
}

impl Clock {
    pub fn new() -> Clock {
        Clock(std::sync::Arc::new(Hands { root: Arc::new(()), of: Mutex::new(Vec::new()) }))
    }

    fn hand_of(&self, me: thread::ThreadId) -> Option<Arc<()>> {
        let mut hands = self.0.of.lock().unwrap();
        hands.iter_mut().find(|hand| hand.0 == me)?.1.take()
    }

    /// `Arc::get_mut` of a reference that is not dropped before the model ends: for loom's scheduler it is dependent on
    /// every other one, and there is no drop that it could synchronise with. The lock is not held while loom may switch.
    pub fn tick(&self) {
        let me = thread::current().id();
        let mut hand = self.hand_of(me).unwrap_or_else(|| Arc::clone(&self.0.root));
        let _ = Arc::get_mut(&mut hand);
        let mut hands = self.0.of.lock().unwrap();
        match hands.iter_mut().find(|hand| hand.0 == me) {
            Some(mine) => mine.1 = Some(hand),
            None => hands.push((me, Some(hand))),
        }
    }
}
