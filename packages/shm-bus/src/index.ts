export { Bus, type Peer, type Stats, type To } from "./bus.ts";
export type { BusEvents, GapEvent, MembershipEvent } from "./events.ts";
export { type Codec, codecs } from "./codec.ts";
export { ShmBusError, type ShmBusErrorCode, type ShmBusErrorDetails } from "./errors.ts";
export type { Loan } from "./loan.ts";
export type { Message, MessageBatch } from "./message.ts";
export type { AttachOptions, Overload, PublishOptions, SubscribeOptions, WaitStrategy } from "./options.ts";
export type { Subscription } from "./subscription.ts";
