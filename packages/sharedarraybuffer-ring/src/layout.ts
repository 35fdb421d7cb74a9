// Where everything stands, in bytes: the TypeScript side of the Rust crate's `layout` module, with the same names. Both are
// compared with one list of numbers in their tests, so that neither can change alone.

/** Every constant of the layout. All words have 64 bits, little-endian, at multiples of 8. */
export const layout = {
  /** Two builds work on one ring only if theirs are equal. */
  layoutVersion: 1,
  /** The first word of a sequencer memory: "SHMBUSSQ". */
  sequencerMagic: 0x5153_5355_424d_4853n,
  /** The first word of a payload memory: "SHMBUSPL". */
  payloadMagic: 0x4c50_5355_424d_4853n,
  page: 4096,
  /** Distance between words that different attachments write often. */
  line: 128,
  maxAttachments: 1024,
  /** Words in a bitmap with one bit an attachment. */
  idWords: 16,

  /** Offsets in a sequencer memory. */
  sequencer: {
    magic: 0,
    version: 8,
    slotCount: 16,
    busIdLow: 24,
    busIdHigh: 32,
    /** Tail hint; its low half is the word that readers sleep on. */
    hint: 128,
    /** `term 48 | id 16`. */
    term: 256,
    control: 264,
    /** One more than the highest id ever used. */
    high: 272,
    /** The smallest lag at which a reader wants to lose its place; 0 if none does. */
    evictionLag: 280,
    fullSince: 384,
    /** Counts releases of space; its low half is the word that publishers sleep on. */
    space: 512,
    spaceWaiters: 640,
    pollers: 768,
    /** Row `b` has one bit an id for those asleep whom a frame of bucket `b` concerns. */
    sleepers: 4096,
    sleeperRow: 128,
    /** The member table. */
    members: 36_864,
    memberBytes: 64,
    memberWord: 0,
    memberFloor: 8,
    memberDeadline: 16,
    memberMaxLag: 24,
    memberAddress: 32,
    slots: 102_400,
  },

  /** Offsets in the payload memory of an attachment. */
  payload: {
    magic: 0,
    version: 8,
    headerCount: 16,
    ringBytes: 24,
    cursor: 128,
    /** The 256-bit set of buckets whose frames this attachment may read. */
    buckets: 256,
    sleepEpoch: 384,
    /** Loans of the data lane with a smaller serial may be overwritten. */
    reclaimed: 512,
    reclaimedControl: 640,
    published: 768,
    publishedBytes: 776,
    wouldBlock: 784,
    delivered: 896,
    violations: 904,
    /** Stamps that lossy subscriptions have missed. */
    missed: 912,
    headers: 4096,
    entryBytes: 128,
    /** Payloads up to this size stand in the entry itself. */
    inlineBytes: 64,
    controlHeaders: 64,
    cellBytes: 512,
    alignment: 64,
  },

  /** Offsets of the words in a header. */
  header: {
    stamp: 0,
    serial: 8,
    position: 16,
    /** `length 32 | file descriptors 8 | bucket 8 | kind 8 | flags 8`, from the low bits up. */
    shape: 24,
    destination: 32,
    time: 40,
    topic: 48,
    /** `batch count 16 | index in batch 16 | span 32`, from the low bits up. */
    batch: 56,
    bytes: 64,
    /** Bit of the flags: the payload stands in the entry, behind the header. */
    inline: 1,
  },
} as const;

/** Bytes of a sequencer memory with `slots` slots. */
export function sequencerBytes(slots: number): number {
  return nextMultiple(layout.sequencer.slots + 8 * slots, layout.page);
}

/** The first multiple of `unit` from `value` on. */
export function nextMultiple(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
