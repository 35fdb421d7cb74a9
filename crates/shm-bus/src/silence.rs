//! When a master that does not answer may be robbed of its role.
//!
//! Taking the role from a master that lives is safe: its records carry a term that is over. It costs time, and on a
//! loaded machine candidates could rob each other for ever. So silence is counted in slices that the asker has slept
//! through itself: where it gets no processor either, it counts slowly, and a machine that stood still counts nothing.
//! And patience doubles with every role that was taken in vain, until masters have the time they need to answer.

use std::time::{Duration, Instant};

/// Silence is counted in these.
pub(crate) const SLICE: Duration = Duration::from_millis(20);
/// Slices that a master may be silent, at least and at most: a tenth of a second to five.
const LEAST: u32 = 5;
const MOST: u32 = 250;
/// Patience halves in this time if nothing makes it grow.
const CALM: Duration = Duration::from_secs(10);
/// After so long the role is taken also by one that does not know everything that the last master did.
const LAST_RESORT: Duration = Duration::from_secs(5);

/// What the silence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The slice is not over.
    Nothing,
    /// A slice is over.
    Silence,
    /// The master has said something.
    Answer,
    /// It was silent for too long.
    TooLong,
}

/// How long one attachment has waited for its master.
pub(crate) struct Silence {
    patience: u32,
    /// When patience last changed.
    since: Instant,
    asked: Option<Asked>,
}

struct Asked {
    began: Instant,
    heard: u64,
    /// The term whose master owes the answer; none while a successor of one that is gone has yet to appear.
    term: Option<u64>,
    slices: u32,
    end: Instant,
}

impl Silence {
    /// For one whose attach was answered in this time.
    pub fn new(answered: Duration, now: Instant) -> Self {
        let slices = (4 * answered.as_millis() / SLICE.as_millis()).min(u128::from(MOST)) as u32;
        Silence { patience: slices.clamp(LEAST, MOST), since: now, asked: None }
    }

    /// Begins to count, unless it does already. `term` is the master's that has to answer.
    pub fn ask(&mut self, heard: u64, term: Option<u64>, now: Instant) {
        if self.asked.is_none() {
            self.calm_down(now);
            self.asked = Some(Asked { began: now, heard, term, slices: 0, end: now + SLICE });
        }
    }

    /// Nothing is waited for.
    pub fn rest(&mut self) {
        self.asked = None;
    }

    /// The master of a living channel was robbed of its role by somebody else.
    pub fn robbed(&mut self, term: u64, now: Instant) {
        self.set_patience(self.patience * 2, now);
        if let Some(asked) = &mut self.asked {
            asked.term = Some(term);
        }
        self.restart(now);
    }

    /// Counts from the beginning: what was in the way was not the master.
    pub fn restart(&mut self, now: Instant) {
        if let Some(asked) = &mut self.asked {
            (asked.slices, asked.end) = (0, now + SLICE);
        }
    }

    /// When to look next.
    pub fn next_look(&self) -> Option<Instant> {
        self.asked.as_ref().map(|asked| asked.end)
    }

    /// Whether it has gone on for so long that a successor that does not know everything is better than none.
    pub fn is_hopeless(&self, now: Instant) -> bool {
        self.asked.as_ref().is_some_and(|asked| now - asked.began >= LAST_RESORT)
    }

    /// Looks what there is: how many messages have come so far, and the present term.
    pub fn look(&mut self, heard: u64, term: u64, now: Instant) -> Heard {
        let Some(asked) = &mut self.asked else { return Heard::Nothing };
        if asked.heard != heard {
            // An answer that came within a quarter of the patience makes that smaller, a late one leaves it.
            if 4 * asked.slices <= self.patience {
                self.set_patience(self.patience / 2, now);
            }
            self.asked = None;
            return Heard::Answer;
        }
        if asked.term != Some(term) {
            // The first successor of one that is gone was waited for. Any other has been robbed, perhaps in vain.
            if asked.term.is_some() {
                self.robbed(term, now);
            } else {
                asked.term = Some(term);
                self.restart(now);
            }
            return Heard::Nothing;
        }
        let said = self.count(now);
        if said == Heard::TooLong {
            self.set_patience(self.patience * 2, now);
        }
        said
    }

    /// As [`Silence::look`], where nobody has followed a master that is gone.
    pub fn look_for_successor(&mut self, now: Instant) -> Heard {
        self.count(now)
    }

    fn count(&mut self, now: Instant) -> Heard {
        let Some(asked) = &mut self.asked else { return Heard::Nothing };
        if now < asked.end {
            return Heard::Nothing;
        }
        // One slice, however long this process did not run.
        asked.slices += 1;
        asked.end = now + SLICE;
        if asked.slices < self.patience {
            return Heard::Silence;
        }
        asked.slices = 0;
        Heard::TooLong
    }

    fn set_patience(&mut self, patience: u32, now: Instant) {
        self.patience = patience.clamp(LEAST, MOST);
        self.since = now;
    }

    fn calm_down(&mut self, now: Instant) {
        let halvings = (now - self.since).as_millis() / CALM.as_millis();
        if halvings > 0 {
            self.set_patience(self.patience >> halvings.min(31), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that is moved by hand.
    struct Game {
        silence: Silence,
        now: Instant,
    }

    impl Game {
        fn new(answered: Duration) -> Self {
            let now = Instant::now();
            Game { silence: Silence::new(answered, now), now }
        }

        /// Slices until the patience is over, the master saying nothing.
        fn slices(&mut self, term: u64) -> u32 {
            self.silence.ask(0, Some(term), self.now);
            for slice in 1..10_000 {
                self.now += SLICE;
                match self.silence.look(0, term, self.now) {
                    Heard::Silence => {}
                    Heard::TooLong => return slice,
                    other => panic!("{other:?}"),
                }
            }
            panic!("it never ends");
        }

        /// The master answers after so many slices.
        fn answer_after(&mut self, slices: u32) {
            self.silence.rest();
            self.silence.ask(0, Some(1), self.now);
            for _ in 0..slices {
                self.now += SLICE;
                assert_eq!(self.silence.look(0, 1, self.now), Heard::Silence);
            }
            assert_eq!(self.silence.look(1, 1, self.now), Heard::Answer);
            assert_eq!(self.silence.next_look(), None);
        }
    }

    #[test]
    fn each_role_taken_in_vain_doubles_the_patience_up_to_a_limit() {
        let mut game = Game::new(Duration::ZERO);
        let waited: Vec<u32> = (0..8).map(|_| game.slices(1)).collect();
        assert_eq!(waited, [5, 10, 20, 40, 80, 160, 250, 250]);
    }

    #[test]
    fn a_slow_welcome_makes_a_patient_member() {
        assert_eq!(Game::new(Duration::from_millis(10)).slices(1), 5);
        assert_eq!(Game::new(Duration::from_millis(300)).slices(1), 60);
        assert_eq!(Game::new(Duration::from_secs(3600)).slices(1), 250);
    }

    #[test]
    fn prompt_answers_shorten_it_again_and_late_ones_do_not() {
        let mut game = Game::new(Duration::from_millis(200));
        game.answer_after(11);
        assert_eq!(game.slices(1), 40);
        for _ in 0..2 {
            game.answer_after(10);
        }
        assert_eq!(game.slices(1), 20);
    }

    #[test]
    fn and_so_does_time() {
        let mut game = Game::new(Duration::from_secs(5));
        game.now += 3 * CALM;
        assert_eq!(game.slices(1), 31);
    }

    #[test]
    fn a_time_in_which_nothing_ran_is_one_slice() {
        let mut game = Game::new(Duration::ZERO);
        game.silence.ask(0, Some(1), game.now);
        for _ in 0..4 {
            game.now += Duration::from_secs(60);
            assert_eq!(game.silence.look(0, 1, game.now), Heard::Silence);
            assert_eq!(game.silence.look(0, 1, game.now), Heard::Nothing);
        }
        game.now += SLICE;
        assert_eq!(game.silence.look(0, 1, game.now), Heard::TooLong);
    }

    #[test]
    fn a_first_successor_starts_the_count_again_and_any_other_doubles_it() {
        let mut game = Game::new(Duration::ZERO);
        game.silence.ask(0, None, game.now);
        game.now += 4 * SLICE;
        assert_eq!(game.silence.look_for_successor(game.now), Heard::Silence);
        assert_eq!(game.silence.look(0, 2, game.now), Heard::Nothing);
        assert_eq!(game.slices(2), 5);
        game.silence.rest();
        let mut game = Game::new(Duration::ZERO);
        game.silence.ask(0, None, game.now);
        assert_eq!(game.silence.look(0, 2, game.now), Heard::Nothing);
        assert_eq!(game.silence.look(0, 3, game.now), Heard::Nothing);
        assert_eq!(game.slices(3), 10);
    }
}
