//! The process that founds the bus and sees every control record of it.
//!
//! It takes no messages. Now and then it attaches anew before it lets its former attachment go, so that the role it may
//! hold passes on while nothing is missed.

use std::time::{Duration, Instant};

use shm_bus::{Bus, BusError, Overload, SubscribeOptions, Subscription, WaitStrategy};

use crate::diary::{Diary, Phase};
use crate::dice::Dice;
use crate::event::Event;
use crate::participant::reading::item;
use crate::plan::{BUS, Habits, LONG, OBSERVER, Place};

/// How often it looks whether it should attach anew.
const LOOK: Duration = Duration::from_millis(5);
const WAIT: Duration = Duration::from_millis(5);

struct Watch {
    bus: Bus,
    subscription: Subscription,
    number: u32,
    released: u64,
}

struct Observer {
    place: Place,
    diary: Diary,
    dice: Dice,
    watches: Vec<Watch>,
    next: u32,
    /// How often in a hundred looks it attaches anew.
    relays: u64,
}

/// Runs the observer, and gives its exit code.
pub fn run(place: Place, relays: u64) -> i32 {
    let dice = Dice::new(place.seed, u64::from(OBSERVER));
    let ended = Diary::open()
        .map_err(|e| e.to_string())
        .and_then(|diary| Observer { place, diary, dice, watches: Vec::new(), next: 0, relays }.live());
    match ended {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("observer: {why}");
            1
        }
    }
}

impl Observer {
    fn live(&mut self) -> Result<(), String> {
        self.attach()?;
        let mut looked = Instant::now();
        while self.diary.phase() == Phase::Act {
            self.read()?;
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if self.dice.chance(self.relays) {
                    self.relay()?;
                }
            }
        }
        self.diary.write(Event::Done);
        while self.lag() > 0 {
            self.read()?;
        }
        self.diary.write(Event::Drained);
        while self.diary.phase() < Phase::Leave {
            self.read()?;
        }
        // It goes last, and knows of everybody's end.
        let alone = |watch: &Watch| watch.bus.directory().is_ok_and(|d| d.members().count() == 1);
        while !self.watches.iter().all(alone) || self.lag() > 0 {
            self.read()?;
        }
        self.leave(0)
    }

    fn lag(&self) -> u64 {
        self.watches.iter().map(|w| w.subscription.lag()).max().unwrap_or(0)
    }

    /// Attaches and subscribes, reading on meanwhile: the answers may need room that only this process can make.
    fn attach(&mut self) -> Result<(), String> {
        let options = self.place.options(&Habits::of(self.place.seed, OBSERVER, self.place.log2_slots, None));
        self.diary.write(Event::Attach);
        let bus = self.reading_on(move || Bus::attach(BUS, &options))?;
        let address = bus.address().0;
        self.diary.write(Event::Attached { member: bus.member(), address });
        let number = self.next;
        self.next += 1;
        self.diary.write(Event::Subscribe { sub: number, address });
        let overload = Some(Overload::Pinned);
        let options = SubscribeOptions { overload, timeout: LONG, records: true };
        let (bus, subscription) = self.reading_on(move || {
            let subscription = bus.subscribe(&[], false, options)?;
            Ok((bus, subscription))
        })?;
        let start = subscription.position().0;
        let (addresses, records, lossy) = (Vec::new(), true, false);
        self.diary.write(Event::Subscribed { sub: number, start, addresses, records, lossy });
        self.watches.push(Watch { bus, subscription, number, released: start });
        Ok(())
    }

    fn reading_on<T: Send + 'static>(
        &mut self,
        call: impl FnOnce() -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, String> {
        let calling = std::thread::spawn(call);
        while !calling.is_finished() {
            self.read()?;
            if self.watches.is_empty() {
                break;
            }
        }
        calling.join().map_err(|_| "a call panicked".to_owned())?.map_err(|e| e.to_string())
    }

    /// The new attachment sees what the old one has not read yet before the old one goes.
    fn relay(&mut self) -> Result<(), String> {
        self.attach()?;
        let start = self.watches.last().expect("just added").released;
        while self.watches[0].released < start {
            self.read()?;
        }
        self.leave(0)
    }

    fn leave(&mut self, index: usize) -> Result<(), String> {
        let Watch { bus, mut subscription, number, .. } = self.watches.remove(index);
        let address = bus.address().0;
        if self.dice.chance(50) {
            self.diary.write(Event::Close { sub: number });
            self.reading_on(move || subscription.close(LONG))?;
            self.diary.write(Event::Closed { sub: number });
        }
        self.diary.write(Event::Detach { address });
        self.reading_on(move || {
            bus.close();
            Ok(())
        })?;
        self.diary.write(Event::Detached { address });
        Ok(())
    }

    fn read(&mut self) -> Result<(), String> {
        if let Some(first) = self.watches.first_mut() {
            let waited = first.subscription.wait(WaitStrategy::Park, WAIT);
            waited.map_err(|e| e.to_string())?;
        }
        for watch in &mut self.watches {
            let mut items = Vec::new();
            let polled = watch.subscription.poll(16, |found| items.push(item(&found)));
            let reached = watch.subscription.position().0;
            if !items.is_empty() {
                self.diary.write(Event::Got { sub: watch.number, items });
            }
            if !watch.subscription.violations().is_empty() {
                return Err(format!("it accuses those of the slots: {:?}", watch.subscription.violations()));
            }
            match polled.and_then(|_| watch.subscription.release()) {
                Ok(()) if std::mem::replace(&mut watch.released, reached) != reached => {
                    self.diary.write(Event::Released { sub: watch.number, next: reached });
                }
                Ok(()) => {}
                Err(BusError::Evicted { stamp }) => {
                    self.diary.write(Event::Evicted { sub: watch.number, stamp });
                    return Err("it lost its place, so that nobody knows all control records".into());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}
