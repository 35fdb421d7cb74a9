//! The process of the members that live, in a case in which a control thread is stepped: two that publish and read, and a
//! guest, for whom the master does something.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_bus::{Bus, Subscription};

use super::Op;
use super::leftovers::{Held, Scratch, said};
use super::member::{HASTY, LAPS, Member, agree, go_on, subscribe};
use super::operation::{FIRST, SECOND};
use super::parties::{Word, Words};
use super::verdict::{end_well, same_order};
use crate::Outcome;
use crate::report::Note;
use crate::trace::process::{HANG, until};

struct Guest {
    bus: Bus,
    subscription: Option<Subscription>,
}

/// All that they do, and what they find. Gives the longest wait of a publisher.
pub fn survive(op: Op, scratch: &Scratch, words: &Words, doomed: Option<Pid>, lives: bool) -> Outcome<Note> {
    let before = Held::now()?;
    let mut members = vec![Member::new(scratch, FIRST)?, Member::new(scratch, SECOND)?];
    let mut guest = None;
    if op.is_service() {
        let bus = scratch.attach()?;
        let subscription = match op {
            Op::MasterLeave => Some(subscribe(&bus, &["n"], HASTY)?),
            _ => None,
        };
        guest = Some(Guest { bus, subscription });
    }
    go_on(&mut members, 8)?;
    words.say(Word::Members);
    let wait = std::thread::scope(|scope| {
        let asked = guest.take().map(|guest| {
            scope.spawn(move || {
                words.wait_for(Word::Ask)?;
                let guest = ask(op, scratch, doomed, guest)?;
                words.say(Word::Done);
                Ok(guest)
            })
        });
        words.wait_for(Word::Go)?;
        let wait = go_on(&mut members, LAPS)?;
        words.say(Word::Laps);
        words.wait_for(Word::Resumed)?;
        if let Some(asked) = asked {
            let guest: Outcome<Guest> = asked.join().unwrap_or_else(|_| Err("the guest panicked".to_owned()));
            let Guest { bus, subscription } = guest?;
            drop(subscription);
            bus.close();
        }
        Ok::<_, String>(wait)
    })?;
    go_on(&mut members, 10)?;
    agree(&members, usize::from(lives))?;
    words.say(Word::Agreed);
    if lives {
        words.wait_for(Word::Closed)?;
        agree(&members, 0)?;
    }
    go_on(&mut members, 4)?;
    same_order(&members)?;
    end_well(scratch, &before, members)?;
    Ok(Note { longest_wait: wait.as_millis() as u64, ..Note::default() })
}

/// What the guest asks for; returns when it has it.
fn ask(op: Op, scratch: &Scratch, doomed: Option<Pid>, mut guest: Guest) -> Outcome<Guest> {
    match op {
        Op::MasterAttach => scratch.attach()?.close(),
        Op::MasterJoin => guest.subscription = Some(subscribe(&guest.bus, &["n", "g"], HASTY)?),
        Op::MasterLeave => {
            let mut subscription = guest.subscription.take().ok_or("a subscription")?;
            said("leave", subscription.close(HANG))?;
        }
        Op::MasterDetach => guest.bus.close(),
        Op::MasterDeath => {
            let listed = |bus: &Bus| bus.directory().map_or(0, |d| d.members().count());
            let before = listed(&guest.bus);
            said("SIGKILL", kill(doomed.ok_or("a doomed one")?, Signal::SIGKILL))?;
            until("the dead one has departed", || listed(&guest.bus) < before)?;
        }
        _ => return Err("no service of a master's".to_owned()),
    }
    Ok(guest)
}
