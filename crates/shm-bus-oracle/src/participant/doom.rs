//! Death at some instruction: a timer's signal kills this process while it publishes.

use std::time::Duration;

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use super::{Outcome, Participant};
use crate::event::Event;

/// The timer runs out within this many nanoseconds: some publishes.
const SOON: u64 = 60_000;

impl Participant {
    /// Publishes until the timer kills this process. Who reads its log knows before that it will.
    pub(super) fn await_doom(&mut self) -> Outcome<()> {
        let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, kill).map_err(|e| e.to_string())?;
        let time = Expiration::OneShot(Duration::from_nanos(self.dice.between(1, SOON)).into());
        self.diary.write(Event::Killed);
        timer.set(time, TimerSetTimeFlags::empty()).map_err(|e| e.to_string())?;
        loop {
            if self.attachment.is_none() {
                self.attach()?;
            }
            match self.dice.roll(4) {
                0 => self.batch()?,
                1 => self.transaction()?,
                2 => self.lend()?,
                _ => self.multicast()?,
            }
        }
    }
}
