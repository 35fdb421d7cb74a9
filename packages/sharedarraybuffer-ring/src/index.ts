export { everyone, formatAddress, group, isGroup, parseAddress, unicast } from "./address.ts";
export { bucketOf, bucketOfAll, BucketSet, controlBucket, mixedBucket } from "./bucket.ts";
export { RingError, type RingErrorCode } from "./errors.ts";
export { Frame, type Sender } from "./frame.ts";
export { Gate, type Holder, type Peers } from "./gate.ts";
export { Geometry, type LaneKind } from "./geometry.ts";
export {
  decodeHeader,
  encodeHeader,
  type Header,
  type HeaderKind,
  headerKinds,
  type RawHeader,
  readHeader,
  writeHeader,
} from "./header.ts";
export { Lane, type Outgoing, type Owner, type Published, type Space, type WouldBlock } from "./lane.ts";
export { layout, sequencerBytes } from "./layout.ts";
export {
  type AttachState,
  decodeMemberWord,
  encodeMemberWord,
  type Member,
  Members,
  type MemberWord,
  type Policy,
  type ReaderState,
} from "./member.ts";
export { Memory } from "./memory.ts";
export { type Counters, PageReader, readCounters } from "./page-reader.ts";
export { Reader, type Senders, type Step, type Violation } from "./reader.ts";
export { type Gap, RingReader, type RingReaderOptions } from "./ring-reader.ts";
export {
  type Destination,
  type Message,
  type PublishOptions,
  type RingLoan,
  RingWriter,
} from "./ring-writer.ts";
export { Ring, type RingOptions, type RingSizes } from "./ring.ts";
export { type Found, Sequencer } from "./sequencer.ts";
export { type SleepKind, Sleepers } from "./sleepers.ts";
export {
  bucketIn,
  decodeSlotWord,
  encodeSlotWord,
  indexOf,
  lapsAhead,
  lapTag,
  senderOf,
  type SlotFields,
  slotHigh,
  slotLow,
} from "./slot-word.ts";
export { threads, type Waiting } from "./waiting.ts";
