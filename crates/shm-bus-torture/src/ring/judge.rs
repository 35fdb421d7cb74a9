//! What must be true of the order afterwards, and of what a stepped process was told.

use shm_bus_ring::{Reader, ReaderState, Stamp, Step};

use super::message::{buckets, check, seen, sender_of};
use super::operation::POLLED;
use super::world::{PUBLISHER, READERS, SLOTS, VICTIM, World, owner};
use crate::Outcome;
use crate::report::{Ended, Seen};

/// No hole, one order for everyone, the survivor's messages once each.
pub fn one_order(world: &World) -> Outcome<()> {
    let sequencer = &world.sequencer;
    let tail = sequencer.find().map_err(|e| e.to_string())?.stamp;
    for hint in [1, tail - 1, tail + 30, tail.saturating_sub(2 * SLOTS)] {
        match sequencer.find_from(hint) {
            Ok(found) if found.stamp == tail => {}
            other => return Err(format!("the tail is {tail}, but from {hint} it is {other:?}")),
        }
    }
    if sequencer.hint() > tail {
        return Err(format!("the hint {} is past the tail {tail}", sequencer.hint()));
    }
    if let Some(hole) = (tail - SLOTS..tail)
        .find(|stamp| sequencer.slot(*stamp).laps_ahead(*stamp, sequencer.log2_slots()) != 0)
    {
        return Err(format!("slot {hole} is not filled, the tail is {tail}"));
    }
    let [first, second] = READERS.map(|id| &world.members[id].seen);
    if first != second {
        return Err("two readers saw different orders".to_owned());
    }
    let mut stamps: Vec<u64> = first.iter().map(|s| s.stamp).collect();
    stamps.dedup();
    if !stamps.iter().copied().eq(world.start..tail) {
        return Err(format!("the readers saw {} stamps of {}..{tail}", stamps.len(), world.start));
    }
    let numbers = first.iter().filter(|s| sender_of(s.topic) == PUBLISHER).map(|s| s.topic as u32);
    let last = world.number(PUBLISHER);
    let count = numbers.clone().count() as u64;
    if !numbers.map(u64::from).eq(last - count + 1..=last) || count == 0 {
        return Err("a message of the living publisher is lost or twice".to_owned());
    }
    Ok(())
}

/// What a stepped publisher planned is in the order once, whole events in its own order, and all of it that returned.
pub fn published(world: &World, id: usize, planned: &[Vec<u64>], ended: Option<&[Ended]>) -> Outcome<()> {
    let seen: Vec<Seen> =
        world.members[READERS[0]].seen.iter().filter(|s| sender_of(s.topic) == id).copied().collect();
    let mut rest = &seen[..];
    let mut stamps = Vec::new();
    for topics in planned {
        if rest.is_empty() {
            break;
        }
        let stamp = rest[0].stamp;
        let event: Vec<Seen> =
            topics.iter().zip(0..).map(|(topic, index)| Seen { stamp, index, topic: *topic }).collect();
        if !rest.starts_with(&event) {
            return Err(format!("{seen:?} was read of {planned:?}"));
        }
        rest = &rest[event.len()..];
        stamps.push(stamp);
    }
    if !rest.is_empty() {
        return Err(format!("read {rest:?}, which nobody published, or twice"));
    }
    if let Some(ended) = ended {
        let returned: Vec<u64> = ended
            .iter()
            .filter_map(|e| match e {
                Ended::Published(stamp) => Some(*stamp),
                _ => None,
            })
            .collect();
        if returned != stamps {
            return Err(format!("publishes returned {returned:?}, read were {stamps:?}"));
        }
    }
    Ok(())
}

/// What a stepped reader took for whole is what was there, from its place on.
pub fn polled(world: &World, ended: &[Ended], read: &[Seen]) -> Outcome<()> {
    let expected = &world.waiting[..read.len().min(world.waiting.len())];
    if read != expected {
        return Err(format!("it read {read:?} where {:?} was", world.waiting));
    }
    if ended == [Ended::Done] && read.len() != POLLED {
        return Err(format!("it read {} of {POLLED}", read.len()));
    }
    Ok(())
}

/// No message of the victim stands behind the record of its departure, and it was told so.
pub fn departed(world: &World, record: u64) -> Outcome<()> {
    let late =
        world.members[READERS[0]].seen.iter().find(|s| sender_of(s.topic) == VICTIM && s.stamp > record);
    if let Some(late) = late {
        return Err(format!("{late:?} is behind its sender's departure at {record}"));
    }
    let (ended, _) = world.report.heard(VICTIM).ok_or("it did not return")?;
    for ended in ended {
        match ended {
            Ended::Detached => {}
            Ended::Published(stamp) if stamp < record => {}
            other => return Err(format!("told {other:?} after its departure at {record}")),
        }
    }
    Ok(())
}

/// Whoever was let in at the record of `ended`, if it was, reads everything from there on, unless it lost its place.
pub fn joined(world: &mut World, id: usize, ended: Option<Ended>) -> Outcome<()> {
    let Some(Ended::Published(record)) = ended else { return Ok(()) };
    world.follow()?;
    world.members[id].reader = Reader::new(Stamp(record + 1), buckets());
    let counts = |world: &World| world.sequencer.members().word(owner(id).id).reader() == ReaderState::Live;
    if !counts(world) {
        return skim(world, id);
    }
    world.members[id].seen.clear();
    world.take(id)?;
    let behind = |s: &&Seen| s.stamp > record;
    if !world.members[READERS[0]].seen.iter().filter(behind).eq(world.members[id].seen.iter()) {
        return Err("the one who joined saw something else than the readers".to_owned());
    }
    Ok(())
}

/// A reader lost its place, once, and takes nothing for whole that is not.
pub fn lost_its_place_once(world: &mut World, id: usize) -> Outcome<()> {
    let word = world.sequencer.members().word(owner(id).id);
    if word.evictions() != 1 || word.reader() != ReaderState::Evicted {
        return Err(format!("the slow reader was evicted {} times", word.evictions()));
    }
    skim(world, id)
}

/// Reads what there still is for one who lost its place.
fn skim(world: &mut World, id: usize) -> Outcome<()> {
    loop {
        match world.read(id) {
            Ok((frame, bytes)) if world.intact(&frame) => {
                check(&frame, &bytes)?;
                let taken = seen(&frame);
                let all = &world.members[READERS[0]].seen;
                if taken.stamp >= world.start && !all.contains(&taken) {
                    return Err(format!("it read {taken:?}, which nobody else did"));
                }
            }
            Ok(_) | Err(Step::Violation(..)) => {}
            Err(_) => return Ok(()),
        }
    }
}
