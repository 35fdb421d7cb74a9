//! Whole attachments: processes with control threads, a master, memories handed over; one thread of one of them is
//! stepped.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use shm_bus::{
    Address, AttachOptions, Bus, BusError, Envelope, Event, Overload, Publisher, SubscribeOptions,
    Subscription,
};

use crate::Outcome;
use crate::report::{Ended, Report, Seen};
use crate::ring::Mode;
use crate::tracee::{self, HANG, Reached, Trace, Tracee};
use crate::world::{body, sender_of, topic};

/// What the stepped process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Publishes 64 bytes.
    Publish,
    /// Publishes 4 KiB.
    PublishRing,
    /// Takes a loan and publishes it.
    Loan,
    /// Publishes three messages as one event.
    Batch,
    /// Publishes one message to two groups.
    Transaction,
    /// Finds the order full past a reader's deadline.
    Evict,
    /// Reads what is there and lets go of it.
    Poll,
    /// Sleeps until a message comes.
    Wait,
    /// Subscribes.
    Subscribe,
    /// Ends a subscription.
    Unsubscribe,
    /// Attaches.
    Attach,
    /// Detaches.
    Close,
    /// Is the master, and dies while others attach.
    Master,
}

impl Op {
    pub const ALL: [(&str, Op); 13] = [
        ("bus-publish", Op::Publish),
        ("bus-publish-ring", Op::PublishRing),
        ("bus-loan", Op::Loan),
        ("bus-batch", Op::Batch),
        ("bus-transaction", Op::Transaction),
        ("bus-evict", Op::Evict),
        ("bus-poll", Op::Poll),
        ("bus-wait", Op::Wait),
        ("bus-subscribe", Op::Subscribe),
        ("bus-unsubscribe", Op::Unsubscribe),
        ("bus-attach", Op::Attach),
        ("bus-close", Op::Close),
        ("bus-master", Op::Master),
    ];

    pub fn modes(self) -> &'static [Mode] {
        match self {
            Op::Master => &[Mode::Kill],
            _ => &[Mode::Kill, Mode::Stop],
        }
    }

    /// How far apart the instructions are that a full run takes: what runs beside the stepped thread, and a way that
    /// differs a little each time, make the ones between no different.
    pub fn stride(self) -> usize {
        match self {
            Op::Master => 1,
            Op::Poll => 49,
            Op::Attach => 499,
            _ => 7,
        }
    }

    fn publishes(self) -> bool {
        matches!(self, Op::Publish | Op::PublishRing | Op::Loan | Op::Batch | Op::Transaction | Op::Evict)
    }

    fn reads(self) -> bool {
        matches!(self, Op::Poll | Op::Wait)
    }
}

const NAME: &str = "torture";
const SLOTS: u64 = 1 << 8;
const LAPS: u64 = 3 * SLOTS;
/// Who sends: in the topics.
const VICTIM: usize = 0;
const FIRST: usize = 1;
const SECOND: usize = 2;

fn said<T, E: ToString>(what: &str, result: Result<T, E>) -> Outcome<T> {
    result.map_err(|e| format!("{what}: {}", e.to_string()))
}

fn scratch_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("shm-bus-torture-{pid}"))
}

/// Removes what a case that did not come to its end has left behind.
pub fn clear_away(pid: nix::unistd::Pid) {
    let _ = fs::remove_dir_all(scratch_of(pid.as_raw() as u32));
}

/// The same for the cases of a run that was killed as a whole.
pub fn clear_after_the_dead() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("shm-bus-torture-"));
        if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
            && !PathBuf::from(format!("/proc/{pid}")).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A private runtime directory.
struct Scratch {
    path: PathBuf,
    /// Sockets that this process had before.
    sockets: usize,
}

impl Scratch {
    fn new() -> Outcome<Self> {
        let path = scratch_of(std::process::id());
        let _ = fs::remove_dir_all(&path);
        said("mkdir", fs::DirBuilder::new().mode(0o700).create(&path))?;
        said("chmod", fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))?;
        Ok(Scratch { path, sockets: sockets() })
    }

    fn options(&self) -> AttachOptions {
        AttachOptions {
            runtime_directory: Some(self.path.clone()),
            ring_bytes: 1 << 16,
            headers: 64,
            log2_slots: SLOTS.trailing_zeros(),
            timeout: HANG,
            ..AttachOptions::default()
        }
    }

    fn attach(&self) -> Outcome<Bus> {
        said("attach", Bus::attach(NAME, &self.options()))
    }
}

fn sockets() -> usize {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A subscription that gives its place up after `deadline`.
fn subscribe(bus: &Bus, groups: &[&str], deadline: Duration) -> Outcome<Subscription> {
    let options = SubscribeOptions {
        overload: Some(Overload::Block { deadline }),
        timeout: HANG,
        ..SubscribeOptions::default()
    };
    let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
    said("subscribe", bus.subscribe(&groups, false, options))
}

/// Long enough for nobody to lose its place by mistake.
const PATIENT: Duration = Duration::from_secs(10);
/// Short: who is stopped is to lose its place.
const HASTY: Duration = Duration::from_millis(1);

/// Takes what there is; every message has to be what its topic says.
fn take(subscription: &mut Subscription, seen: &mut Vec<Seen>) -> Result<usize, BusError> {
    let mut torn = None;
    let count = subscription.poll(64, |event| {
        if let Event::Message(message) = event {
            let topic = message.frame.header.topic;
            if message.to_vec() != body(topic) {
                torn = Some(topic);
            }
            seen.push(Seen {
                stamp: message.frame.place.stamp.0,
                index: u64::from(message.frame.place.index),
                topic,
            });
        }
    })?;
    // What was handed over is whole only if it still was when the lease ended.
    subscription.release()?;
    match torn {
        Some(topic) => Err(BusError::Protocol { why: format!("torn: topic {topic:#x}") }),
        None => Ok(count),
    }
}

/// A living attachment.
struct Member {
    bus: Bus,
    subscription: Subscription,
    publisher: Publisher,
    seen: Vec<Seen>,
    who: usize,
    count: u64,
}

impl Member {
    fn new(scratch: &Scratch, who: usize) -> Outcome<Self> {
        let bus = scratch.attach()?;
        Ok(Member {
            subscription: subscribe(&bus, &["g", "h"], PATIENT)?,
            publisher: said("publisher", bus.publisher())?,
            bus,
            seen: Vec::new(),
            who,
            count: 0,
        })
    }

    fn take_all(&mut self) -> Outcome<()> {
        while said("poll", take(&mut self.subscription, &mut self.seen))? > 0 {}
        if self.subscription.violations().is_empty() {
            Ok(())
        } else {
            Err(format!("violations: {:?}", self.subscription.violations()))
        }
    }

    fn group(&mut self, name: &str) -> Outcome<Address> {
        said("resolve", self.publisher.resolve(name))
    }
}

/// Messages by turns, and everybody reads: nobody may wait for whoever is dead or stopped longer than its deadline.
fn go_on(members: &mut [Member], count: u64) -> Outcome<()> {
    let g = members[0].group("g")?;
    let turns = members.len();
    for n in 0..count as usize {
        let member = &mut members[n % turns];
        member.count += 1;
        let topic = topic(member.who, if n % 7 == 3 { 900 } else { 16 }, member.count);
        let bytes = body(topic);
        let start = std::time::Instant::now();
        loop {
            match members[n % turns].publisher.publish(&[g], &bytes, Envelope { topic }) {
                Ok(_) => break,
                Err(BusError::WouldBlock { .. }) if start.elapsed() < HANG => {
                    members.iter_mut().try_for_each(Member::take_all)?;
                    let slice = Duration::from_millis(5);
                    let publisher = &mut members[n % turns].publisher;
                    said("wait_writable", publisher.wait_writable(slice))?;
                }
                Err(error) => return Err(format!("publish: {error}")),
            }
        }
        if n % 16 == 15 {
            members.iter_mut().try_for_each(Member::take_all)?;
        }
    }
    members.iter_mut().try_for_each(Member::take_all)
}

/// The events that the stepped process publishes: their topics.
fn planned(op: Op) -> Vec<Vec<u64>> {
    let number = |n, length| topic(VICTIM, length, n);
    match op {
        Op::Publish | Op::Evict => vec![vec![number(1, 64)]],
        Op::PublishRing => vec![vec![number(1, 4096)]],
        Op::Loan => vec![vec![number(1, 100)]],
        Op::Batch => vec![vec![number(1, 64), number(2, 300), number(3, 20)]],
        Op::Transaction => vec![vec![number(1, 200)]],
        _ => Vec::new(),
    }
}

/// What `Op::Poll` finds in front of it.
const WAITING: usize = 6;

/// The stepped process. It tells the others by the report when it is ready, which is also where its operation begins.
fn act(op: Op, options: &AttachOptions, report: &Report) {
    let mut bus = None;
    let mut subscription = None;
    let mut publisher = None;
    if op != Op::Attach {
        let attached = Bus::attach(NAME, options).expect("attach");
        if op.reads() || matches!(op, Op::Unsubscribe | Op::Close) {
            subscription = Some(subscribe(&attached, &["g", "h"], HASTY).expect("subscribe"));
        }
        publisher = Some(attached.publisher().expect("publisher"));
        bus = Some(attached);
    }
    let word = bus.as_ref().map(|bus| {
        let page = bus.order_page().expect("page");
        shm_bus_os::Word::new(page, shm_bus_ring::layout::sequencer::HINT as usize).expect("word")
    });
    let topics = planned(op);
    let bodies: Vec<Vec<u8>> = topics.iter().flatten().map(|topic| body(*topic)).collect();
    let topics: Vec<u64> = topics.into_iter().flatten().collect();
    let mut ended = Vec::new();
    let mut seen = Vec::new();
    if op.reads() || op.publishes() {
        // Ready: whoever reads waits for the others to publish, whoever publishes for them to fill the order.
        report.say(1, &[], &[]);
        tracee::until("the others are done", || report.heard(2).is_some()).expect("ready");
    }
    let envelope = |topic| Envelope { topic };
    let (g, h) = match &mut publisher {
        Some(publisher) if op.publishes() => {
            (publisher.resolve("g").expect("g"), publisher.resolve("h").expect("h"))
        }
        _ => (Address::EVERYONE, Address::EVERYONE),
    };
    let hear = |stamp: Result<shm_bus::Stamp, BusError>| match stamp {
        Ok(stamp) => Ended::Published(stamp.0),
        Err(BusError::WouldBlock { .. }) => Ended::Full,
        Err(BusError::Closed) => Ended::Detached,
        Err(error) => {
            eprintln!("{error}");
            Ended::Broken
        }
    };
    tracee::begin();
    match (op, &mut publisher, &mut subscription) {
        (Op::Publish | Op::PublishRing, Some(publisher), _) => {
            ended.push(hear(publisher.publish(&[g], &bodies[0], envelope(topics[0]))));
        }
        (Op::Transaction, Some(publisher), _) => {
            ended.push(hear(publisher.publish(&[g, h], &bodies[0], envelope(topics[0]))));
        }
        (Op::Loan, Some(publisher), _) => {
            let loan = publisher.loan(&[g], 100);
            let published = loan.and_then(|loan| {
                let region = bus.as_ref().expect("attached").own_mapping().region()?;
                region.copy_in(loan.offset(), &bodies[0]);
                publisher.publish_loan(loan, 100, envelope(topics[0]))
            });
            ended.push(hear(published));
        }
        (Op::Batch, Some(publisher), _) => {
            let published = publisher.begin_batch().and_then(|()| {
                for (bytes, topic) in bodies.iter().zip(&topics) {
                    publisher.publish(&[g], bytes, envelope(*topic))?;
                }
                publisher.end_batch()
            });
            ended.push(hear(published.map(|stamp| stamp.expect("not empty"))));
        }
        (Op::Evict, Some(publisher), _) => loop {
            let said = hear(publisher.publish(&[g], &bodies[0], envelope(topics[0])));
            if said != Ended::Full {
                ended.push(said);
                break;
            }
        },
        (Op::Poll, _, Some(subscription)) => ended.push(read(subscription, &mut seen)),
        (Op::Wait, _, Some(subscription)) => {
            let word = word.as_ref().expect("the page of the order");
            let bus = bus.as_ref().expect("attached");
            // As `Subscription::wait`, without its time limit: under the tracer a look takes longer than that.
            while !subscription.advance_to_ready() {
                let buckets = *subscription.buckets();
                let hint = bus.fall_asleep(&buckets);
                if !subscription.advance_to_ready() {
                    word.wait(hint, buckets.futex_bits(), None).expect("futex");
                }
                bus.wake_up(&buckets);
            }
            ended.push(read(subscription, &mut seen));
        }
        (Op::Subscribe, ..) => {
            subscription = Some(subscribe(bus.as_ref().expect("attached"), &["g", "h"], HASTY).expect("join"))
        }
        (Op::Unsubscribe, _, Some(subscription)) => subscription.close(HANG).expect("leave"),
        (Op::Attach, ..) => bus = Some(Bus::attach(NAME, options).expect("attach")),
        (Op::Close, ..) => bus.as_ref().expect("attached").close(),
        _ => {}
    }
    tracee::end();
    report.say(VICTIM, &ended, &seen);
    drop((publisher, subscription));
    drop(bus);
}

fn read(subscription: &mut Subscription, seen: &mut Vec<Seen>) -> Ended {
    match take(subscription, seen) {
        Ok(_) => Ended::Done,
        Err(BusError::Evicted { stamp }) => {
            seen.retain(|s| s.stamp < stamp);
            Ended::Evicted
        }
        Err(BusError::Closed) => Ended::Detached,
        Err(error) => {
            eprintln!("{error}");
            Ended::Broken
        }
    }
}

/// A bus with two living attachments and the process that will be stepped, standing at its begin.
struct Stage {
    scratch: Scratch,
    report: Report,
    /// Dropped before the members: a process that is stopped has to be gone when they close.
    victim: Tracee,
    members: Vec<Member>,
    slow: Option<(Subscription, Bus)>,
    /// What the stepped process may read.
    before: usize,
}

impl Stage {
    /// The child is forked while this process has one thread; then the others attach, then the child.
    fn set(op: Op, report: &Report, hurried: bool) -> Outcome<Stage> {
        let scratch = Scratch::new()?;
        let options = scratch.options();
        report.clear();
        let child = Tracee::start_later(|| {
            if !hurried {
                nix::unistd::alarm::cancel();
            }
            tracee::until("the others are there", || report.heard(3).is_some()).expect("others");
            act(op, &options, report);
        })?;
        let mut members = vec![Member::new(&scratch, FIRST)?, Member::new(&scratch, SECOND)?];
        report.say(3, &[], &[]);
        let mut slow = None;
        let mut before = 0;
        if op.reads() || op.publishes() {
            tracee::until("the process is attached", || report.heard(1).is_some() || !child.is_alive())?;
            if op == Op::Poll {
                go_on(&mut members, WAITING as u64)?;
                before = members[0].seen.len() - WAITING;
            } else if op == Op::Wait {
                before = members[0].seen.len();
            } else if op == Op::Evict {
                // For a group of its own: it holds the order, and nobody's headers.
                let bus = scratch.attach()?;
                slow = Some((subscribe(&bus, &["s"], HASTY)?, bus));
                let from = members[1].subscription.position().0;
                let g = members[1].group("g")?;
                loop {
                    let member = &mut members[1];
                    let topic = topic(SECOND, 16, member.count + 1);
                    match member.publisher.publish(&[g], &body(topic), Envelope { topic }) {
                        Ok(stamp) if stamp.0 < from + 2 * SLOTS => member.count += 1,
                        Err(BusError::WouldBlock { .. }) => break,
                        other => return Err(format!("filling the order: {other:?}")),
                    }
                    members.iter_mut().try_for_each(Member::take_all)?;
                }
            } else {
                go_on(&mut members, 20)?;
            }
            report.say(2, &[], &[]);
        }
        let mut victim = child;
        victim.arrive()?;
        Ok(Stage { scratch, report: report.clone(), victim, members, slow, before })
    }
}

/// The way of an undisturbed run.
pub fn trace_of(op: Op, report: &Report) -> Outcome<Trace> {
    let mut stage = Stage::set(op, report, false)?;
    if op == Op::Wait {
        // Something is there at once: else it sleeps.
        return stage.victim.trace(true);
    }
    stage.victim.trace(false)
}

/// One case. Gives a note if the process returned before it came to its instruction.
pub fn case(op: Op, mode: Mode, trace: &Trace, at: usize, report: &Report) -> Outcome<String> {
    if op == Op::Master {
        return master(at, report);
    }
    let mut stage = Stage::set(op, report, true)?;
    let mut note = String::new();
    let returned = at > trace.len();
    if !returned {
        match stage.victim.go_to(trace, at)? {
            Reached::There if stage.victim.is_at(trace, at)? => {}
            _ => note = "another way than the trace".to_owned(),
        }
        if trace.sleeps && at == trace.len() {
            stage.victim.run()?;
            stage.victim.until_asleep()?;
        }
    }
    let running = trace.sleeps && at == trace.len();
    match mode {
        Mode::Kill => {
            if returned {
                stage.victim.pass_end()?;
                tracee::until("it returns", || {
                    stage.report.heard(VICTIM).is_some() || !stage.victim.is_alive()
                })?;
            }
            stage.victim.kill()?;
            go_on(&mut stage.members, LAPS)?;
        }
        Mode::Stop | Mode::Depart => {
            if op == Op::Wait {
                go_on(&mut stage.members, 1)?;
            } else {
                stage.victim.freeze()?;
                go_on(&mut stage.members, LAPS)?;
                stage.victim.thaw()?;
            }
            if running {
                stage.victim.join()?;
            } else {
                stage.victim.finish()?;
            }
        }
    }
    go_on(&mut stage.members, 10)?;
    judge(stage, op, mode)?;
    Ok(note)
}

fn judge(stage: Stage, op: Op, mode: Mode) -> Outcome<()> {
    let Stage { scratch, report, victim, mut members, slow, before } = stage;
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
    agree(&members)?;
    go_on(&mut members, 4)?;
    let first = members[0].seen.clone();
    // The second joined later: it has seen the end of the first's order.
    let common = first.len().min(members[1].seen.len());
    if first[first.len() - common..] != members[1].seen[members[1].seen.len() - common..] || common == 0 {
        return Err("two readers saw different orders".to_owned());
    }
    for member in &members {
        let numbers = first.iter().filter(|s| sender_of(s.topic) == member.who);
        if !numbers.map(|s| u64::from(s.topic as u32)).eq(1..=member.count) {
            return Err(format!("messages of {} are lost or twice", member.who));
        }
    }
    check_published(op, &first, heard.as_ref().map(|h| &h.0[..]))?;
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
    // A newcomer gets everything from its join on.
    let newcomer = Member::new(&scratch, 3)?;
    members.push(newcomer);
    go_on(&mut members, 9)?;
    if members[2].seen.len() != 9 {
        return Err(format!("a newcomer read {} of 9", members[2].seen.len()));
    }
    agree(&members)?;
    leave_nothing(scratch, members)
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

/// Everyone lists the living ones only.
fn agree(members: &[Member]) -> Outcome<()> {
    tracee::until("the directory lists the living ones only", || {
        members.iter().all(|m| {
            m.bus.directory().is_ok_and(|d| {
                d.members().count() == members.len() && members.iter().all(|o| d.has(o.bus.member()))
            })
        })
    })?;
    match members.iter().filter(|m| m.bus.is_master()).count() {
        1 => Ok(()),
        n => Err(format!("{n} masters")),
    }
}

/// After the last one has closed there is no file, no map and no descriptor of the bus.
fn leave_nothing(scratch: Scratch, members: Vec<Member>) -> Outcome<()> {
    for member in members {
        let Member { bus, subscription, publisher, .. } = member;
        drop((subscription, publisher));
        bus.close();
    }
    let left: Vec<_> = said("readdir", fs::read_dir(&scratch.path))?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    if !left.is_empty() {
        return Err(format!("left behind: {left:?}"));
    }
    let bus_memory = |text: &str| {
        ["shm-bus-payload", "shm-bus-sequencer", "shm-bus-directory"].iter().any(|name| text.contains(name))
    };
    let maps = said("maps", fs::read_to_string("/proc/self/maps"))?;
    if let Some(map) = maps.lines().find(|line| bus_memory(line)) {
        return Err(format!("still mapped: {map}"));
    }
    for entry in said("readdir", fs::read_dir("/proc/self/fd"))?.flatten() {
        if let Ok(target) = fs::read_link(entry.path())
            && bus_memory(&target.to_string_lossy())
        {
            return Err(format!("still open: {}", target.display()));
        }
    }
    if sockets() != scratch.sockets {
        return Err(format!("{} sockets, before there were {}", sockets(), scratch.sockets));
    }
    Ok(())
}

/// Kills the master at some moment of its service, while others attach, join and leave. `at` is how many looks at its
/// bus the killer takes first, in units of what an attach may take.
fn master(at: usize, report: &Report) -> Outcome<String> {
    let scratch = Scratch::new()?;
    let options = scratch.options();
    report.clear();
    let pid = said(
        "fork",
        tracee::spawn(|| {
            let bus = Bus::attach(NAME, &options).expect("attach");
            bus.create_group("g", HANG).expect("g");
            report.say(1, &[], &[]);
            std::thread::sleep(HANG);
        }),
    )?;
    tracee::until("the master is there", || report.heard(1).is_some())?;
    let start = std::time::Instant::now();
    let moment = Duration::from_micros(20 * at as u64);
    let mut members = std::thread::scope(|scope| {
        let comers: Vec<_> = [FIRST, SECOND]
            .into_iter()
            .map(|who| {
                let scratch = &scratch;
                scope.spawn(move || {
                    let gone = scratch.attach()?;
                    let member = Member::new(scratch, who)?;
                    gone.close();
                    Ok(member)
                })
            })
            .collect();
        while start.elapsed() < moment {
            std::hint::spin_loop();
        }
        let killed = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let members: Outcome<Vec<Member>> = comers
            .into_iter()
            .map(|comer| comer.join().unwrap_or_else(|_| Err("a comer panicked".to_owned())))
            .collect();
        said("SIGKILL", killed)?;
        members
    })?;
    let _ = tracee::reap(pid, "the master");
    agree(&members)?;
    go_on(&mut members, LAPS)?;
    let common = members[0].seen.len().min(members[1].seen.len());
    let ends: Vec<_> = members.iter().map(|m| &m.seen[m.seen.len() - common..]).collect();
    if ends[0] != ends[1] || common < LAPS as usize {
        return Err("two readers saw different orders".to_owned());
    }
    agree(&members)?;
    leave_nothing(scratch, members)?;
    Ok(String::new())
}
