//! What must be true of a bus after one of its processes was killed or stopped.

use shm_bus::BusError;

use super::Op;
use super::case::Stage;
use super::leftovers::{Held, Scratch};
use super::member::{Member, agree, go_on, take};
use super::operation::{VICTIM, planned};
use crate::Outcome;
use crate::mode::Mode;
use crate::report::{Ended, Seen};
use crate::ring::message::sender_of;

/// Who it is that attaches last of all.
const NEWCOMER: usize = 3;

pub fn judge(stage: Stage, op: Op, mode: Mode) -> Outcome<()> {
    let Stage { scratch, report, victim, mut members, slow, before, at_first, held } = stage;
    drop(victim);
    if let Some((mut slow, bus)) = slow {
        match take(&mut slow, &mut Vec::new()) {
            Err(BusError::Evicted { .. }) => {}
            other => return Err(format!("a reader that was overrun: {other:?}")),
        }
        drop(slow);
        bus.close();
    }
    let heard = report.heard(VICTIM);
    if mode != Mode::Kill && heard.is_none() {
        return Err("it did not return".to_owned());
    }
    // Everyone agrees on who is there: the two, and nobody else.
    agree(&members, 0)?;
    go_on(&mut members, 4)?;
    held.until_again()?;
    same_order(&members)?;
    let first = &members[0].seen;
    check_published(op, first, heard.as_ref().map(|h| &h.0[..]))?;
    if let Some((ended, read)) = &heard {
        for ended in ended {
            let fine = match ended {
                Ended::Published(_) | Ended::Done => true,
                Ended::Evicted => op == Op::Poll && mode != Mode::Kill,
                _ => false,
            };
            if !fine {
                return Err(format!("it was told {ended:?}"));
            }
        }
        if op.reads() {
            let expected = &first[before..];
            if !expected.starts_with(read) || (ended[0] == Ended::Done && read.is_empty()) {
                return Err(format!("it read {read:?}, there was {:?}", &expected[..expected.len().min(8)]));
            }
        }
    }
    end_well(&scratch, &at_first, members)
}

/// Two living ones saw one order, from where both were there, and in it each message of the living once.
pub fn same_order(members: &[Member]) -> Outcome<()> {
    let (first, second) = (&members[0].seen, &members[1].seen);
    // Whoever joined later has seen the end of the other's order.
    let common = first.len().min(second.len());
    if first[first.len() - common..] != second[second.len() - common..] || common == 0 {
        return Err("two readers saw different orders".to_owned());
    }
    let longer = if first.len() >= second.len() { first } else { second };
    for member in members {
        let numbers = longer.iter().filter(|s| sender_of(s.topic) == member.who);
        if !numbers.map(|s| u64::from(s.topic as u32)).eq(1..=member.count) {
            return Err(format!("messages of {} are lost or twice", member.who));
        }
    }
    Ok(())
}

/// A newcomer gets everything from its join on, and after everyone's end nothing is left.
pub fn end_well(scratch: &Scratch, before: &Held, mut members: Vec<Member>) -> Outcome<()> {
    members.push(Member::new(scratch, NEWCOMER)?);
    let count = 3 * members.len() as u64;
    go_on(&mut members, count)?;
    let read = members.last().map_or(0, |m| m.seen.len() as u64);
    if read != count {
        return Err(format!("a newcomer read {read} of {count}"));
    }
    agree(&members, 0)?;
    scratch.leave_nothing(before, members)
}

fn check_published(op: Op, first: &[Seen], ended: Option<&[Ended]>) -> Outcome<()> {
    let planned = planned(op);
    let own: Vec<Seen> = first.iter().filter(|s| sender_of(s.topic) == VICTIM).copied().collect();
    let topics: Vec<u64> = own.iter().map(|s| s.topic).collect();
    let whole = planned.first().is_some_and(|event| *event == topics);
    if !own.is_empty() && (!whole || own.iter().any(|s| s.stamp != own[0].stamp)) {
        return Err(format!("{own:?} was read of {planned:?}"));
    }
    for ended in ended.into_iter().flatten() {
        if let Ended::Published(stamp) = ended
            && own.first().is_none_or(|s| s.stamp != *stamp)
        {
            return Err(format!("published at {stamp}, read {own:?}"));
        }
    }
    Ok(())
}
