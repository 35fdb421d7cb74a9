//! What an attachment holds of the present reign, and what it hears of it.

use super::*;

/// What the present master has handed over besides the directory.
#[derive(Clone, Default)]
pub(crate) struct Reign {
    /// The term it came in.
    term: u64,
    /// The bus's listening socket.
    pub socket: Option<Arc<Socket>>,
    /// The master's process; none if it is this attachment that reigns.
    pub process: Option<Arc<OwnedFd>>,
}

/// What the other threads of an attachment tell its control thread.
#[derive(Default)]
pub(crate) struct News {
    /// Something is waited for that the master should have answered by now.
    suspected: AtomicBool,
    /// Messages of the master so far.
    heard: AtomicU64,
}

impl Shared {
    /// Wakes the control thread.
    pub fn rouse(&self) {
        let _ = self.control.signal();
    }

    /// The master owes an answer: the control thread finds out whether it is still there.
    pub fn suspect(&self) {
        self.news.suspected.store(true, Ordering::Release);
        self.rouse();
    }

    pub fn is_suspected(&self) -> bool {
        self.news.suspected.load(Ordering::Acquire)
    }

    pub fn clear_suspicion(&self) {
        self.news.suspected.store(false, Ordering::Release);
    }

    /// How many messages of the master have arrived.
    pub fn heard(&self) -> u64 {
        self.news.heard.load(Ordering::Acquire)
    }

    pub(super) fn hear(&self) {
        self.news.heard.fetch_add(1, Ordering::AcqRel);
    }

    /// Somebody has read in the order that `term` has begun: an attachment whose own master is stopped hears of a
    /// successor in no other way.
    pub fn notice_term(&self, term: u64) {
        if term > self.known_term() {
            self.rouse();
        }
    }

    pub fn reign(&self) -> Reign {
        lock(&self.reign).clone()
    }

    /// Keeps what the master of `term` has handed over.
    pub fn set_reign(&self, term: u64, socket: Arc<Socket>, process: Option<OwnedFd>) {
        let mut reign = lock(&self.reign);
        if term >= reign.term {
            *reign = Reign { term, socket: Some(socket), process: process.map(Arc::new) };
            drop(reign);
            self.rouse();
        }
    }

    /// Lets go of it: a closed attachment must not keep the socket open, behind which nobody would answer.
    pub fn end_reign(&self) {
        *lock(&self.reign) = Reign::default();
    }

    /// Whether everything is here that the present master hands over.
    pub fn is_settled(&self) -> bool {
        let term = self.sequencer.term().0;
        self.known_term() == term && lock(&self.reign).term == term
    }
}
