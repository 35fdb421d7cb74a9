//! The master at its service, or its successor: the control thread is taken to one instruction of what it does, and killed
//! or stopped there. While a successor is on its way its rivals stand still; then they go on, and one may rob it.

use super::Op;
use super::parties::{Parties, Word, freeze, thaw};
use crate::Outcome;
use crate::mode::Mode;
use crate::report::{Note, Report};
use crate::trace::process::reap;
use crate::trace::steps::Trace;
use crate::trace::tracee::Reached;

/// The way of a thread that nobody disturbs.
pub fn trace_of(op: Op, report: &Report) -> Outcome<Trace> {
    let mut parties = Parties::gather(op, report, true, true)?;
    parties.begin(op)?;
    let (words, members) = (parties.words.clone(), parties.members);
    if op.is_service() {
        freeze(members)?;
        parties.stepped.trace_until(|| words.said(Word::Done), || thaw(members), || freeze(members))
    } else {
        parties.stepped.trace_until(|| words.said(Word::Done), || Ok(()), || Ok(()))
    }
}

/// One case.
pub fn case(op: Op, mode: Mode, trace: &Trace, at: usize, report: &Report) -> Outcome<Note> {
    let lives = mode != Mode::Kill;
    let mut parties = Parties::gather(op, report, false, lives)?;
    let words = parties.words.clone();
    parties.begin(op)?;
    let reached = parties.stepped.go_to_unless(trace, at, || words.said(Word::Done))?;
    let other_way = match reached {
        Reached::Over => at < trace.len(),
        Reached::There => !parties.stepped.is_at(trace, at)?,
    };
    if !lives {
        parties.stepped.kill()?;
    }
    words.say(Word::Go);
    if !op.is_service() {
        thaw(parties.members)?;
    }
    words.wait_for_members(Word::Laps)?;
    if lives {
        parties.stepped.detach()?;
    }
    words.say(Word::Resumed);
    if lives {
        words.wait_for_members(Word::Agreed)?;
        words.say(Word::Close);
        parties.stepped.reap()?;
    }
    let ended = reap(parties.members, "the members");
    if let Some(master) = parties.master.filter(|_| op == Op::TakeOverClosed) {
        reap(master, "the former master")?;
    }
    match words.verdict().read() {
        Some(Ok(note)) => ended.map(|()| Note { other_way, ..Note::parse(&note) }),
        Some(Err(why)) => Err(why),
        None => Err(ended.err().unwrap_or_else(|| "the members said nothing".to_owned())),
    }
}
