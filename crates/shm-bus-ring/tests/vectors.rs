//! The test vectors that this crate and the TypeScript package `sharedarraybuffer-ring` share: the same steps on both sides
//! must leave the same words in memory. A constant, a field or a rule that changes on one side alone fails here or there.
#![cfg(not(loom))]

mod common;
#[path = "vectors/json.rs"]
mod json;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use common::{GENERATION, Pages, owner};
use json::{Json, hex, object};
use shm_bus_ring::layout::{self, payload, sequencer_bytes};
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Bucket, BucketSet, Frame, Full, Geometry, GeometryError, Kind, Lane,
    LaneKind, Loan, MemberWord, Message, Ordering, Policy, PublishError, Reader, ReaderState, Region,
    Sequencer, Shortage, SleepKind, SlotWord, Stamp, Step, View, Violation, intact,
};

fn load(name: &str) -> Json {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{name}.json"));
    Json::parse(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Every constant of the layout as this build has it.
fn constants() -> BTreeMap<String, u64> {
    use shm_bus_ring::layout::{header, sequencer};
    let mut all = BTreeMap::new();
    macro_rules! add {
        ($module:ident, $prefix:literal, $($name:ident)+) => {
            $( all.insert(concat!($prefix, stringify!($name)).to_string(), $module::$name as u64); )+
        };
    }
    add!(layout, "", LAYOUT_VERSION SEQUENCER_MAGIC PAYLOAD_MAGIC PAGE LINE MAX_ATTACHMENTS ID_WORDS);
    add!(sequencer, "SEQUENCER.", MAGIC VERSION SLOT_COUNT BUS_ID_LOW BUS_ID_HIGH HINT TERM CONTROL HIGH EVICTION_LAG FULL_SINCE
        SPACE SPACE_WAITERS POLLERS SLEEPERS SLEEPER_ROW MEMBERS MEMBER_BYTES MEMBER_WORD MEMBER_FLOOR
        MEMBER_DEADLINE MEMBER_MAX_LAG MEMBER_ADDRESS SLOTS);
    add!(payload, "PAYLOAD.", MAGIC VERSION HEADER_COUNT RING_BYTES CURSOR BUCKETS SLEEP_EPOCH RECLAIMED
        RECLAIMED_CONTROL PUBLISHED PUBLISHED_BYTES WOULD_BLOCK DELIVERED VIOLATIONS MISSED HEADERS ENTRY_BYTES
        INLINE_BYTES CONTROL_HEADERS CELL_BYTES ALIGNMENT);
    add!(header, "HEADER.", STAMP SERIAL POSITION SHAPE DESTINATION TIME TOPIC BATCH BYTES INLINE);
    all
}

/// The names of all public constants that the source of the layout module declares.
fn declared() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut module = String::new();
    for line in include_str!("../src/layout.rs").lines() {
        if let Some(name) = line.strip_prefix("pub mod ") {
            module = format!("{}.", name.trim_end_matches(" {").to_uppercase());
        } else if line == "}" {
            module.clear();
        } else if let Some(rest) = line.trim_start().strip_prefix("pub const ")
            && let Some((name, _)) = rest.split_once(':')
            && !name.contains('(')
        {
            names.insert(module.clone() + name);
        }
    }
    names
}

/// `sequencer.slotCount` is `SEQUENCER.SLOT_COUNT`.
fn in_capitals(camel: &str) -> String {
    let mut name = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[test]
fn the_layout_is_the_one_of_the_list() {
    let vectors = load("layout");
    let listed: BTreeMap<String, u64> = vectors
        .get("constants")
        .members()
        .iter()
        .map(|(name, value)| (in_capitals(name), value.number()))
        .collect();
    assert_eq!(listed, constants());
    assert_eq!(declared(), listed.into_keys().collect(), "every constant is in the list");
    for pair in vectors.get("sequencerBytes").list() {
        let [slots, bytes] = pair.list() else { panic!("{pair:?}") };
        assert_eq!(sequencer_bytes(slots.number().trailing_zeros()), bytes.number());
    }
}

#[test]
fn slot_words() {
    for vector in load("words").get("slotWords").list() {
        let number = |name: &str| vector.get(name).number();
        let log2_slots = number("slots").trailing_zeros();
        let (sender, index) = (AttachmentId(number("sender") as u16), number("index") as u16);
        let bucket = Bucket(number("bucket") as u8);
        let word = SlotWord::new(number("stamp"), log2_slots, sender, index, bucket);
        assert_eq!(hex(word.0), *vector.get("word"), "{vector:?}");
        assert_eq!((word.sender(), word.index(), word.bucket()), (sender, index, bucket));
        for pair in vector.get("laps").list() {
            let ahead = word.laps_ahead(pair.list()[0].number(), log2_slots);
            assert_eq!(Json::Number(ahead), pair.list()[1], "{vector:?}");
        }
    }
}

#[test]
fn buckets() {
    let vectors = load("words");
    for pair in vectors.get("buckets").list() {
        let [address, bucket] = pair.list() else { panic!("{pair:?}") };
        assert_eq!(u64::from(Bucket::of(Address(address.number())).0), bucket.number(), "{address:?}");
    }
    for pair in vectors.get("bucketsOfAll").list() {
        let [list, bucket] = pair.list() else { panic!("{pair:?}") };
        assert_eq!(u64::from(Bucket::of_all(&addresses(list)).0), bucket.number(), "{list:?}");
    }
}

#[test]
fn member_words() {
    let vectors = load("words");
    for vector in vectors.get("memberWords").list() {
        let word = MemberWord::new(
            vector.get("generation").number() as u32,
            attach_state(vector.get("attach").text()),
            reader_state(vector.get("reader").text()),
            policy(vector.get("policy").text()),
            vector.get("evictions").number() as u8,
        );
        assert_eq!(hex(word.0), *vector.get("word"), "{vector:?}");
    }
    let harmless = vectors.get("harmless");
    let word = MemberWord(harmless.get("word").number());
    assert_eq!(word.attach(), attach_state(harmless.get("attach").text()));
    assert_eq!(word.reader(), reader_state(harmless.get("reader").text()));
    assert_eq!(word.policy(), policy(harmless.get("policy").text()));
}

#[test]
fn geometries() {
    let vectors = load("words");
    for vector in vectors.get("geometries").list() {
        let number = |name: &str| vector.get(name).number();
        let geometry = Geometry::new(number("headers"), number("ringBytes")).unwrap();
        assert_eq!(geometry.head_bytes(), number("headBytes"));
        assert_eq!(geometry.memfd_bytes(), number("memoryBytes"));
        assert_eq!(geometry.mapped_bytes(), number("mappedBytes"));
        assert_eq!(geometry.max_frame(), number("maxFrame"));
        let pairs = |name: &str| {
            vector
                .get(name)
                .list()
                .iter()
                .map(|pair| (pair.list()[0].number(), pair.list()[1].clone()))
                .collect::<Vec<_>>()
        };
        for (index, offset) in pairs("entries") {
            let entry = geometry.entry(index as u16);
            assert_eq!(entry.map_or(Json::Null, Json::from), offset, "entry {index}");
        }
        for (n, offset) in pairs("cells") {
            assert_eq!(Json::from(geometry.cell(n)), offset, "cell {n}");
        }
        for (position, offset) in pairs("ringOffsets") {
            assert_eq!(Json::from(geometry.ring_offset(position)), offset, "position {position:#x}");
        }
    }
    for refused in vectors.get("refusedHeaders").list() {
        let error = Geometry::new(refused.number(), 1 << 16);
        assert_eq!(error, Err(GeometryError::HeaderCount(refused.number())));
    }
    for refused in vectors.get("refusedRingBytes").list() {
        let error = Geometry::new(64, refused.number());
        assert_eq!(error, Err(GeometryError::RingBytes(refused.number())));
    }
}

fn addresses(list: &Json) -> Vec<Address> {
    list.list().iter().map(|a| Address(a.number())).collect()
}

fn attach_state(name: &str) -> AttachState {
    match name {
        "free" => AttachState::Free,
        "joining" => AttachState::Joining,
        "live" => AttachState::Live,
        "departed" => AttachState::Departed,
        other => panic!("no attach state: {other}"),
    }
}

fn reader_state(name: &str) -> ReaderState {
    match name {
        "none" => ReaderState::None,
        "joining" => ReaderState::Joining,
        "live" => ReaderState::Live,
        "evicted" => ReaderState::Evicted,
        other => panic!("no reader state: {other}"),
    }
}

fn policy(name: &str) -> Policy {
    match name {
        "block" => Policy::Block,
        "pinned" => Policy::Pinned,
        "lossy" => Policy::Lossy,
        "evict" => Policy::Evict,
        other => panic!("no policy: {other}"),
    }
}

fn lane_name(kind: LaneKind) -> &'static str {
    match kind {
        LaneKind::Data => "data",
        LaneKind::Control => "control",
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Loaned => "loaned",
        Kind::Message => "message",
        Kind::Transaction => "transaction",
        Kind::Control => "control",
        Kind::Padding => "padding",
    }
}

fn bucket_set(list: &Json) -> BucketSet {
    let mut set = BucketSet::default();
    for bucket in list.list() {
        set.insert(Bucket(bucket.number() as u8));
    }
    set
}

/// `length` bytes that tell their seed and their place.
fn pattern(seed: u64, length: u64) -> Vec<u8> {
    (0..length).map(|i| (seed * 31 + i * 7 + (i >> 8)) as u8).collect()
}

fn wake(bucket: Option<Bucket>) -> Json {
    bucket.map_or(Json::Null, |b| Json::from(u64::from(b.0)))
}

fn full(full: &Full) -> Json {
    let shortage = match full.shortage {
        Shortage::Slots => "slots",
        Shortage::Headers => "headers",
        Shortage::Bytes => "bytes",
    };
    let holder = full
        .holder
        .map_or(Json::Null, |(id, cursor)| Json::List(vec![Json::from(u64::from(id.0)), Json::from(cursor)]));
    object([("full", shortage.into()), ("stamp", full.stamp.into()), ("holder", holder)])
}

fn described(frame: &Frame, view: &View) -> Json {
    let header = &frame.header;
    let mut bytes = vec![0; header.length as usize];
    view.copy_out(frame.offset, &mut bytes);
    let digest = bytes.iter().fold(0, |sum, byte| (sum * 31 + u64::from(*byte)) % 4_294_967_291);
    object([
        ("stamp", frame.place.stamp.0.into()),
        ("index", u64::from(frame.place.index).into()),
        ("sender", u64::from(frame.sender.0).into()),
        ("lane", lane_name(frame.lane).into()),
        ("offset", frame.offset.into()),
        ("intact", Json::Bool(intact(view, frame.lane, header.serial))),
        ("serial", hex(header.serial)),
        ("position", hex(header.position)),
        ("length", u64::from(header.length).into()),
        ("descriptors", u64::from(header.descriptors).into()),
        ("bucket", u64::from(header.bucket.0).into()),
        ("kind", kind_name(header.kind).into()),
        ("flags", u64::from(header.flags).into()),
        ("destination", hex(header.destination)),
        ("time", hex(header.time)),
        ("topic", hex(header.topic)),
        ("batchCount", u64::from(header.batch_count).into()),
        ("batchIndex", u64::from(header.batch_index).into()),
        ("span", u64::from(header.span).into()),
        ("payload", digest.into()),
    ])
}

/// What a scenario works on.
struct Machine {
    sequencer: Sequencer,
    order: Region,
    regions: Vec<Region>,
    pages: Pages,
    lanes: BTreeMap<(u64, &'static str), Lane>,
    loans: BTreeMap<String, Loan>,
    readers: BTreeMap<u64, Reader>,
}

impl Machine {
    fn new(scenario: &Json) -> Machine {
        let slots = scenario.get("slots").number().trailing_zeros();
        let geometry =
            Geometry::new(scenario.get("headers").number(), scenario.get("ringBytes").number()).unwrap();
        let order = Region::zeroed(sequencer_bytes(slots));
        let sequencer =
            Sequencer::create(order.clone(), slots, 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210).unwrap();
        let mut regions = Vec::new();
        let mut pages = Pages::default();
        for id in 0..scenario.get("attachments").number() as u16 {
            // Both images of the ring, without being the same memory.
            let own = Region::zeroed(geometry.mapped_bytes());
            geometry.store(&own);
            pages.0.push((own.view(), geometry));
            regions.push(own);
            let live = MemberWord::new(GENERATION, AttachState::Live, ReaderState::None, Policy::Block, 0);
            let members = sequencer.members();
            members.exchange(AttachmentId(id), MemberWord(0), live).unwrap();
            members.set_address(AttachmentId(id), u64::from(id));
            members.cover(AttachmentId(id));
        }
        Machine {
            sequencer,
            order,
            regions,
            pages,
            lanes: BTreeMap::new(),
            loans: BTreeMap::new(),
            readers: BTreeMap::new(),
        }
    }

    /// Does a step and gives what the scenario says of it, if it says something.
    fn run(&mut self, step: &Json) -> Option<Json> {
        let number = |name: &str| step.get(name).number();
        let id = step.find("id").map_or(0, Json::number);
        let (index, attachment) = (id as usize, AttachmentId(id as u16));
        let lane = match step.find("lane").map(Json::text) {
            Some("control") => LaneKind::Control,
            _ => LaneKind::Data,
        };
        match step.get("do").text() {
            "member" => {
                let members = self.sequencer.members();
                members.set_reader(attachment, number("floor"), number("deadline"), number("maxLag"));
                let word = members.word(attachment);
                let new = word
                    .with_reader(reader_state(step.get("reader").text()))
                    .with_policy(policy(step.get("policy").text()));
                members.exchange(attachment, word, new).unwrap();
            }
            "detach" => {
                let members = self.sequencer.members();
                let word = members.word(attachment);
                let new = word.with_attach(AttachState::Departed).with_reader(ReaderState::None);
                members.exchange(attachment, word, new).unwrap();
            }
            "watch" => {
                for (i, word) in (0..).zip(bucket_set(step.get("buckets")).0) {
                    self.regions[index].store(payload::BUCKETS + 8 * i, word, Ordering::Relaxed);
                }
            }
            "cursor" => {
                self.regions[index].store(payload::CURSOR, number("stamp"), Ordering::Release);
            }
            "sleep" => {
                let kind = match step.get("kind").text() {
                    "futex" => SleepKind::Futex,
                    _ => SleepKind::Poll,
                };
                let set = bucket_set(step.get("buckets"));
                self.sequencer.sleepers().enter(attachment, &set, kind);
            }
            "loan" => return Some(self.loan(id, lane, number("length"), step.get("as").text())),
            "write" => {
                let loan = &self.loans[step.get("loan").text()];
                let bytes = pattern(number("seed"), number("length"));
                self.regions[index].copy_in(loan.offset() + number("at"), &bytes);
            }
            "address" => self.address(index, step.get("loan").text(), &addresses(step.get("destinations"))),
            "publish" => return Some(self.publish(id, lane, step.get("frames").list())),
            "send" => return Some(self.send(id, lane, number("length"), step.get("to"), number("time"))),
            "abandon" => {
                let loan = self.loans.remove(step.get("loan").text()).unwrap();
                self.lane(id, lane).abandon(loan);
            }
            "reader" => {
                let reader = Reader::new(Stamp(number("position")), bucket_set(step.get("buckets")));
                self.readers.insert(id, reader);
            }
            "skip" => {
                let reader = self.readers.get_mut(&id).unwrap();
                return Some(reader.skip(&self.sequencer, number("limit")).into());
            }
            "read" => return Some(self.read(id)),
            "poke" => {
                let region = match step.get("memory") {
                    Json::Text(_) => &self.order,
                    memory => &self.regions[memory.number() as usize],
                };
                region.store(number("offset"), number("word"), Ordering::Relaxed);
            }
            other => panic!("no such step: {other}"),
        }
        None
    }

    fn lane(&mut self, id: u64, kind: LaneKind) -> &mut Lane {
        let own = &self.regions[id as usize];
        let geometry = self.pages.0[id as usize].1;
        self.lanes.entry((id, lane_name(kind))).or_insert_with(|| Lane::new(own.clone(), geometry, kind))
    }

    fn loan(&mut self, id: u64, kind: LaneKind, length: u64, name: &str) -> Json {
        let (sequencer, mut pages) = (self.sequencer.clone(), self.pages.clone());
        match self.lane(id, kind).loan::<()>(&sequencer, &mut pages, length) {
            Ok(loan) => {
                let gives = object([
                    ("serial", loan.serial().into()),
                    ("offset", loan.offset().into()),
                    ("capacity", loan.capacity().into()),
                ]);
                self.loans.insert(name.into(), loan);
                gives
            }
            Err(PublishError::Full(shortage)) => full(&shortage),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Writes a transaction's destinations.
    fn address(&self, index: usize, loan: &str, destinations: &[Address]) {
        for (i, destination) in (0..).zip(destinations) {
            let offset = self.loans[loan].offset() + 8 * i;
            self.regions[index].store(offset, destination.0, Ordering::Relaxed);
        }
    }

    fn send(&mut self, id: u64, kind: LaneKind, length: u64, to: &Json, time: u64) -> Json {
        let loaned = self.loan(id, kind, length, "sent");
        if loaned.find("full").is_some() {
            return loaned;
        }
        let destinations = addresses(to);
        let at = if destinations.len() > 1 { 8 * destinations.len() as u64 } else { 0 };
        if at > 0 {
            self.address(id as usize, "sent", &destinations);
        }
        let bytes = pattern(time, (length - at).min(64));
        self.regions[id as usize].copy_in(self.loans["sent"].offset() + at, &bytes);
        let name = match kind {
            LaneKind::Control => "control",
            LaneKind::Data if at > 0 => "transaction",
            LaneKind::Data => "message",
        };
        let frame = object([
            ("loan", "sent".into()),
            ("kind", name.into()),
            ("destinations", to.clone()),
            ("topic", hex(0)),
            ("time", hex(time)),
            ("descriptors", 0.into()),
            ("length", length.into()),
        ]);
        let result = self.publish(id, kind, &[frame]);
        if result != "detached".into() && result.find("wake").is_some() {
            return Json::List(vec![result.get("stamp").clone(), result.get("wake").clone()]);
        }
        let loan = self.loans.remove("sent").unwrap();
        self.lane(id, kind).abandon(loan);
        result
    }

    fn publish(&mut self, id: u64, kind: LaneKind, frames: &[Json]) -> Json {
        let destinations: Vec<_> = frames.iter().map(|f| addresses(f.get("destinations"))).collect();
        let outgoing: Vec<_> = frames
            .iter()
            .zip(&destinations)
            .map(|(frame, destinations)| {
                let loan = self.loans.remove(frame.get("loan").text()).unwrap();
                let kind = match frame.get("kind").text() {
                    "message" => Kind::Message,
                    "transaction" => Kind::Transaction,
                    "control" => Kind::Control,
                    other => panic!("no kind to publish: {other}"),
                };
                let message = Message {
                    destinations,
                    topic: frame.get("topic").number(),
                    descriptors: frame.get("descriptors").number() as u8,
                    time: frame.get("time").number(),
                };
                (loan, kind, message, frame.get("length").number())
            })
            .collect();
        let (sequencer, mut pages) = (self.sequencer.clone(), self.pages.clone());
        let owner = owner(id as u16);
        let result = self.lane(id, kind).publish::<()>(&sequencer, &mut pages, owner, &outgoing, |_| Ok(()));
        let gives = match result {
            Ok(published) => {
                return object([("stamp", published.stamp.0.into()), ("wake", wake(published.wake))]);
            }
            Err(PublishError::Full(shortage)) => full(&shortage),
            Err(PublishError::Detached) => "detached".into(),
            Err(other) => panic!("{other:?}"),
        };
        // The loans are as before.
        for (frame, (loan, ..)) in frames.iter().zip(outgoing) {
            self.loans.insert(frame.get("loan").text().into(), loan);
        }
        gives
    }

    fn read(&mut self, id: u64) -> Json {
        let reader = self.readers.get_mut(&id).unwrap();
        match reader.next(&self.sequencer, &mut self.pages) {
            Step::Empty => "empty".into(),
            Step::Overrun => "overrun".into(),
            Step::Frame(frame) => described(&frame, &self.pages.0[frame.sender.index()].0),
            Step::Violation(stamp, violation) => {
                let reason = match violation {
                    Violation::UnknownSender(_) => "unknown-sender",
                    Violation::Index(..) => "index",
                    Violation::Stamp(..) => "stamp",
                    Violation::Header(_) => "header",
                    other => panic!("a violation without a name: {other}"),
                };
                object([
                    ("violation", reason.into()),
                    ("stamp", stamp.0.into()),
                    ("sender", u64::from(violation.sender().0).into()),
                ])
            }
        }
    }
}

/// The nonzero words of a memory by their offset.
fn words(view: &View) -> BTreeMap<u64, u64> {
    (0..view.len())
        .step_by(8)
        .map(|offset| (offset, view.load(offset, Ordering::Relaxed)))
        .filter(|(_, word)| *word != 0)
        .collect()
}

/// The nonzero words of a payload memory, without what means nothing: a header that is lent or padding says so and what it
/// holds of the ring, and nothing else.
fn payload_words(view: &View, headers: u64) -> BTreeMap<u64, u64> {
    use shm_bus_ring::layout::header as at;
    let mut words = words(view);
    for n in 0..headers + payload::CONTROL_HEADERS {
        let entry = payload::HEADERS + n * payload::ENTRY_BYTES;
        let word = |offset| words.get(&(entry + offset)).copied().unwrap_or(0);
        let kind = word(at::SHAPE) >> 48 & 0xFF;
        if word(at::STAMP) != 0 || ![Kind::Loaned as u64, Kind::Padding as u64].contains(&kind) {
            continue;
        }
        let span = word(at::BATCH) >> 32 << 32;
        words.retain(|offset, _| !(entry..entry + at::BYTES).contains(offset));
        let kept = [(entry + at::SHAPE, kind << 48), (entry + at::BATCH, span)];
        words.extend(kept.into_iter().filter(|(_, word)| *word != 0));
    }
    words
}

fn assert_words(what: &str, expected: &Json, actual: &BTreeMap<u64, u64>) {
    let expected: BTreeMap<u64, u64> = expected
        .members()
        .iter()
        .map(|(offset, word)| (Json::Text(offset.clone()).number(), word.number()))
        .collect();
    let offsets: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
    let wrong: Vec<_> = offsets
        .into_iter()
        .filter(|offset| expected.get(offset) != actual.get(offset))
        .map(|offset| {
            let word = |words: &BTreeMap<u64, u64>| words.get(offset).copied().unwrap_or(0);
            format!("at {offset:#x}: {:#x} instead of {:#x}", word(actual), word(&expected))
        })
        .collect();
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

fn reproduce(name: &str) {
    let scenario = load(name);
    let mut machine = Machine::new(&scenario);
    for (i, step) in scenario.get("steps").list().iter().enumerate() {
        let gives = machine.run(step);
        assert_eq!(gives.as_ref(), step.find("gives"), "step {i} of {name}: {step:?}");
    }
    assert_words(&format!("{name}: sequencer"), scenario.get("sequencer"), &words(&machine.order));
    let headers = scenario.get("headers").number();
    for (id, expected) in scenario.get("payloads").list().iter().enumerate() {
        let actual = payload_words(&machine.regions[id], headers);
        assert_words(&format!("{name}: attachment {id}"), expected, &actual);
    }
}

macro_rules! scenarios {
    ($($test:ident $name:literal)+) => {
        $( #[test] fn $test() { reproduce($name); } )+

        #[test]
        fn every_file_is_used() {
            let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
            let files: BTreeSet<String> = fs::read_dir(directory)
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".json").map(String::from))
                .collect();
            assert_eq!(files, BTreeSet::from(["layout", "words", $($name),+].map(String::from)));
        }
    };
}

scenarios! {
    inline "inline"
    ring "ring"
    batch "batch"
    transaction "transaction"
    laps "laps"
    header_wrap "header-wrap"
    full_order "full-order"
    full_lane "full-lane"
    abandon "abandon"
    sleepers "sleepers"
    quarter_lap "quarter-lap"
    violations "violations"
}
