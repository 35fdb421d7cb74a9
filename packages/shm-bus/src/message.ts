import { inspect } from "node:util";

import type { Buffers } from "./buffers.ts";
import type { Codec } from "./codec.ts";
import { ShmBusError } from "./errors.ts";

/** Columns of a row in the delivery table that the addon fills. */
const columns = 10;
const [STAMP, INDEX, BUFFER, OFFSET, LENGTH, SENDER, DESTINATION, TIME, TOPIC_LOW, TOPIC_HIGH] = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
] as const;

/** An address of a subscription, and the name of the group if it is one. */
export interface Destination {
  readonly address: string;
  readonly group: string | undefined;
}

/** What the messages of one subscription share. */
export interface Delivery<T> {
  readonly table: Float64Array;
  readonly buffers: Buffers;
  /** A payload that the addon has copied: for a lossy subscription, or because its page was written to in this process. */
  readonly copyOf: (n: number) => Uint8Array;
  readonly destinations: readonly Destination[];
  readonly codec: Codec<T>;
  /** Whether to deliver copies and find out late uses. */
  readonly checkLeases: boolean;
  /** Counts the leases: raised when one ends. */
  lease: number;
  /** The subscription: it stays while one of its messages is held. */
  readonly owner: object;
}

/** Texts of the senders' addresses, made once each. */
const senderTexts = new Map<number, string>();

function senderText(suffix: number): string {
  let text = senderTexts.get(suffix);
  if (text === undefined) {
    // Addresses are never reused, so that a long life can see many of them.
    if (senderTexts.size >= 4096) senderTexts.clear();
    text = `0:${suffix}`;
    senderTexts.set(suffix, text);
  }
  return text;
}

/**
 * A received message. It is valid for its *lease*: until the callback returns, or the iterator moves on, or the next
 * `poll`. The object and its `data` are used again afterwards: {@link Message.copy} what you keep.
 */
export class Message<T = Uint8Array> {
  readonly #delivery: Delivery<T>;
  readonly #row: number;
  #data: Uint8Array | undefined;
  #lease = -1;

  /** @internal */
  constructor(delivery: Delivery<T>, index: number) {
    this.#delivery = delivery;
    this.#row = index * columns;
  }

  /** @internal Begins the lease on what the table's row holds now. */
  begin(): void {
    this.#lease = this.#delivery.lease;
    this.#data = undefined;
    if (this.#delivery.checkLeases) this.#data = this.#view().slice();
  }

  /** @internal Ends a checked lease: the copy that was delivered is taken away. */
  end(): void {
    if (this.#data !== undefined)
      structuredClone(this.#data.buffer, { transfer: [this.#data.buffer as ArrayBuffer] });
    this.#lease = -1;
  }

  #read(column: number): number {
    if (this.#lease !== this.#delivery.lease) {
      throw new ShmBusError(
        "ERR_SHM_BUS_LEASE_ENDED",
        "the message was used after its lease; copy() what is needed longer than the callback or the turn of the loop",
      );
    }
    return this.#delivery.table[this.#row + column] as number;
  }

  #view(): Uint8Array {
    const buffer = this.#read(BUFFER);
    if (buffer < 0) return this.#delivery.copyOf(-1 - buffer);
    return this.#delivery.buffers.view(buffer, this.#read(OFFSET), this.#read(LENGTH));
  }

  /** Its place in the one order of the bus: an integer that grows from message to message. */
  get stamp(): number {
    return this.#read(STAMP);
  }

  /** Its place in its batch, 0 for a message that was published alone. */
  get index(): number {
    return this.#read(INDEX);
  }

  /** The unicast address of its sender, authenticated by the memory it stands in. */
  get sender(): string {
    return senderText(this.#read(SENDER));
  }

  /** The address it was sent to; for several, the first that this subscription has. */
  get destination(): string {
    return (this.#delivery.destinations[this.#read(DESTINATION)] as Destination).address;
  }

  /** The name of the group it was sent to; `undefined` for a message to one address. */
  get group(): string | undefined {
    return (this.#delivery.destinations[this.#read(DESTINATION)] as Destination).group;
  }

  /** When it was published, in microseconds of the monotonic clock (`process.hrtime`). */
  get time(): number {
    return this.#read(TIME);
  }

  /** The sender's own word, 64 bits. */
  get topic(): bigint {
    return (BigInt(this.#read(TOPIC_HIGH)) << 32n) | BigInt(this.#read(TOPIC_LOW));
  }

  /** Bytes of payload. */
  get byteLength(): number {
    return this.#read(LENGTH);
  }

  /**
   * The payload, in place: a view of the sender's memory, read-only by contract: a store lands in a page of
   * this process alone, with a warning. Undefined content after the lease. `data.buffer` is the whole memory and not part of the API.
   */
  get data(): Readonly<Uint8Array> {
    // The lease is checked even where the view is there already.
    this.#read(LENGTH);
    return (this.#data ??= this.#view());
  }

  /** The payload as the subscription's codec decodes it. */
  get value(): T {
    return this.#delivery.codec.decode(this.data as Uint8Array);
  }

  /** Whether `data` is a copy and not the sender's memory. */
  get copied(): boolean {
    return this.#delivery.checkLeases || this.#read(BUFFER) < 0;
  }

  /** The payload, copied: yours to keep. */
  copy(): Uint8Array<ArrayBuffer> {
    return (this.data as Uint8Array).slice() as Uint8Array<ArrayBuffer>;
  }

  [inspect.custom](): string {
    if (this.#lease !== this.#delivery.lease) return "Message (lease ended)";
    return `Message { stamp: ${this.stamp}, sender: '${this.sender}', destination: '${this.group ?? this.destination}', byteLength: ${this.byteLength} }`;
  }
}

/** The messages of one delivery: iterable, in stamp order, valid until the callback returns. */
export class MessageBatch<T = Uint8Array> implements Iterable<Message<T>> {
  readonly #messages: Message<T>[];
  #first = 0;
  #end = 0;

  /** @internal */
  constructor(messages: Message<T>[]) {
    this.#messages = messages;
  }

  /** @internal Holds the messages of these rows from here on. */
  hold(first: number, end: number): void {
    this.#first = first;
    this.#end = end;
  }

  /** How many there are, at least 1. */
  get length(): number {
    return this.#end - this.#first;
  }

  /** Message `index`, from 0. */
  at(index: number): Message<T> | undefined {
    return index >= 0 && index < this.length ? this.#messages[this.#first + index] : undefined;
  }

  /** Calls `visit` for each: the fastest way through. */
  forEach(visit: (message: Message<T>) => void): void {
    const end = this.#end;
    for (let row = this.#first; row < end; row++) visit(this.#messages[row] as Message<T>);
  }

  [inspect.custom](): string {
    return `MessageBatch { length: ${this.length} }`;
  }

  *[Symbol.iterator](): IterableIterator<Message<T>> {
    for (let row = this.#first; row < this.#end; row++) yield this.#messages[row] as Message<T>;
  }
}
