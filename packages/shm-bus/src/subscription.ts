import { inspect } from "node:util";

import type { NativeBus, NativeSubscription } from "@shm-bus/native";
import { wait as futexWait } from "atomics-wait";
import { layout } from "sharedarraybuffer-ring";

import type { Buffers } from "./buffers.ts";
import type { Codec } from "./codec.ts";
import { fromNative, invalidOption, ShmBusError, translated } from "./errors.ts";
import { closeWhenForgotten, notForgotten } from "./forgotten.ts";
import { type Delivery, type Destination, Message, MessageBatch } from "./message.ts";
import type { WaitStrategy } from "./options.ts";
import type { Consumer, Scheduler } from "./scheduler.ts";

/** What a subscription needs of its bus. */
export interface Host {
  readonly native: NativeBus;
  readonly scheduler: Scheduler;
  readonly buffers: Buffers;
  readonly checkLeases: boolean;
  readonly wait: WaitStrategy;
  /** The words to sleep on, made when first needed. */
  orderWords(): Int32Array;
  evicted(stamp: number): void;
  gap(subscription: object, stamp: number, until: number): void;
  delivered(count: number): void;
  closed(subscription: object): void;
}

/** Polls of one turn of the event loop: after that others have their turn. */
const pollsPerTurn = 8;
/** A blocking wait comes back to JavaScript this often, so that a worker can be terminated. Milliseconds. */
const sliceMilliseconds = 50;
const spinMilliseconds = 0.02;
const hintIndex = layout.sequencer.hint / 4;

/** A poll gives the number of messages and these flags. */
const rowsMask = 0xffff;
const retiredFlag = 1 << 16;
const storedFlag = 1 << 17;
const gapsFlag = 1 << 18;

let warned = false;

function warnOfStore(): void {
  if (warned) return;
  warned = true;
  process.emitWarning(
    "a received view was written to; the bytes went into a private page that nobody else sees. Use message.copy() for bytes to change.",
    { type: "ShmBusWarning", code: "SHM_BUS_WARN_STORE" },
  );
}

type Mode = "idle" | "handler" | "iterator" | "poll";

/**
 * A reader of the order. Use it in one of three ways: `for await`, {@link Subscription.onMessages}, or
 * {@link Subscription.poll} with {@link Subscription.wait}.
 */
export class Subscription<T = Uint8Array> implements AsyncIterable<Message<T>>, AsyncDisposable {
  readonly #host: Host;
  readonly #native: NativeSubscription;
  readonly #poll: (limit: number) => number;
  readonly #ready: () => number;
  readonly #delivery: Delivery<T>;
  readonly #messages: Message<T>[];
  readonly #batch: MessageBatch<T>;
  readonly #consumer: Consumer;
  #mode: Mode = "idle";
  #handler: ((batch: MessageBatch<T>) => void) | undefined;
  #rows = 0;
  #next = 0;
  #waiting:
    | { resolve: (result: IteratorResult<Message<T>, undefined>) => void; reject: (error: unknown) => void }
    | undefined;
  #referenced = true;
  #counted = false;
  #closing: Promise<void> | undefined;
  /** Gaps that nobody has been told of yet: stamps from the first up to the second, and so on. */
  readonly #gaps: number[] = [];
  #failure: unknown;
  /** An eviction that was found out when nobody could be told. */
  #torn: unknown;

  /** @internal */
  constructor(host: Host, native: NativeSubscription, destinations: readonly Destination[], codec: Codec<T>) {
    this.#host = host;
    this.#native = native;
    this.#poll = native.pollFunction() as (limit: number) => number;
    this.#ready = native.readyFunction() as () => number;
    this.#delivery = {
      table: new Float64Array(native.table() as ArrayBuffer),
      buffers: host.buffers,
      copyOf: (n) => native.copyOf(n) as Uint8Array,
      destinations,
      codec,
      checkLeases: host.checkLeases,
      lease: 0,
      owner: this,
    };
    this.#messages = Array.from({ length: native.rows }, (_, index) => new Message(this.#delivery, index));
    this.#batch = new MessageBatch(this.#messages);
    this.#consumer = { native, deliver: () => this.#deliver() };
    closeWhenForgotten(this, native);
  }

  /** The groups (by name) and addresses it takes. */
  get destinations(): readonly string[] {
    return this.#delivery.destinations.map((d) => d.group ?? d.address);
  }

  /** Stamp of the next message it looks at. */
  get position(): number {
    return this.#native.position;
  }

  /** How many stamps it has yet to look at. */
  get lag(): number {
    return this.#native.lag;
  }

  /** Whether it was closed. */
  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** Frames that failed the reader's checks: somebody has scribbled over the order. */
  get violations(): number {
    return this.#native.violations;
  }

  /** Stamps that it has missed, in all: the sum of its `gap` events. Only a `lossy` subscription has any. */
  get missed(): number {
    return this.#native.missed;
  }

  #endLease(): void {
    if (this.#host.checkLeases)
      for (let row = 0; row < this.#rows; row++) (this.#messages[row] as Message<T>).end();
    this.#delivery.lease++;
    this.#rows = 0;
    this.#next = 0;
  }

  /** Sees to it that messages are there if there are any: what an earlier poll has left, or new ones. */
  #available(limit: number): boolean {
    if (this.#next === this.#rows) this.#fetch(limit);
    this.#tellGaps();
    return this.#next < this.#rows;
  }

  /** Ends the lease, fetches up to `limit` messages and begins theirs. */
  #fetch(limit: number): void {
    this.#endLease();
    this.#checkTorn();
    let polled: number;
    try {
      polled = this.#poll(limit);
    } catch (error) {
      throw this.#failed(fromNative(error));
    }
    const rows = polled & rowsMask;
    if (polled !== rows) this.#onFlags(polled);
    for (let row = 0; row < rows; row++) (this.#messages[row] as Message<T>).begin();
    this.#rows = rows;
    if (rows > 0) this.#host.delivered(rows);
  }

  /** Ends the lease now and not with the next fetch. Whether what was leased was torn is told by `#checkTorn`. */
  #release(): void {
    this.#endLease();
    try {
      this.#native.release();
    } catch (error) {
      this.#torn = fromNative(error);
    }
  }

  #checkTorn(): void {
    if (this.#torn !== undefined) throw this.#failed(this.#torn);
  }

  /** What the addon says beside the number of messages. */
  #onFlags(polled: number): void {
    if ((polled & retiredFlag) !== 0) this.#host.buffers.forgetRetired();
    if ((polled & storedFlag) !== 0) warnOfStore();
    if ((polled & gapsFlag) !== 0) this.#gaps.push(...this.#native.takeGaps());
  }

  /** A listener that throws has had its gap; the others are told with the next look. */
  #tellGaps(): void {
    while (this.#gaps.length > 0) {
      const [from, until] = this.#gaps.splice(0, 2) as [number, number];
      this.#host.gap(this, from, until);
    }
  }

  #failed(error: unknown): unknown {
    this.#failure = error;
    this.#host.scheduler.remove(this.#consumer);
    this.#count(false);
    if (error instanceof ShmBusError && error.code === "ERR_SHM_BUS_EVICTED") {
      this.#host.evicted(error.stamp ?? this.position);
    }
    return error;
  }

  #use(mode: Mode): void {
    if (this.closed) throw new ShmBusError("ERR_SHM_BUS_CLOSED", "the subscription is closed");
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#mode !== "idle" && this.#mode !== mode) {
      throw new ShmBusError("ERR_SHM_BUS_IN_USE", `the subscription is used by its ${this.#mode} already`);
    }
  }

  #count(yes: boolean): void {
    if (yes === this.#counted) return;
    this.#counted = yes;
    this.#host.scheduler.reference(yes ? 1 : -1);
  }

  /** One turn of the event loop. */
  #deliver(): boolean {
    if (this.#mode === "iterator") return this.#deliverToIterator();
    const handler = this.#handler;
    if (handler === undefined) return false;
    for (let polls = 0; polls < pollsPerTurn; polls++) {
      try {
        if (!this.#available(this.#messages.length)) return false;
      } catch (error) {
        if (this.closed) return false;
        throw error;
      }
      this.#batch.hold(this.#next, this.#rows);
      this.#next = this.#rows;
      try {
        handler(this.#batch);
      } catch (error) {
        this.#release();
        throw error;
      }
      if (this.#handler !== handler || this.closed) {
        // It may be long until the next fetch.
        this.#release();
        this.#checkTorn();
        return false;
      }
    }
    return true;
  }

  #deliverToIterator(): boolean {
    const waiting = this.#waiting;
    if (waiting === undefined) return false;
    try {
      if (this.#next === this.#rows) this.#fetch(this.#messages.length);
    } catch (error) {
      this.#waiting = undefined;
      waiting.reject(error);
      return false;
    }
    this.#tellGaps();
    if (this.#next === this.#rows) return false;
    this.#waiting = undefined;
    this.#host.scheduler.remove(this.#consumer);
    this.#count(false);
    waiting.resolve({ done: false, value: this.#messages[this.#next++] as Message<T> });
    return false;
  }

  /**
   * Calls `handler` synchronously from the event loop with all that has come: the hot path. The messages are valid
   * until it returns. What it throws is an uncaught exception; the rest of that batch is lost to it, later ones are
   * delivered. Errors of the subscription itself (`ERR_SHM_BUS_EVICTED`) are uncaught exceptions too.
   *
   * @returns a function that ends the delivery
   */
  onMessages(handler: (batch: MessageBatch<T>) => void): () => void {
    this.#use("handler");
    if (this.#handler !== undefined) {
      throw new ShmBusError("ERR_SHM_BUS_IN_USE", "the subscription has a handler already");
    }
    if (typeof handler !== "function") throw invalidOption("handler", "must be a function");
    this.#mode = "handler";
    this.#handler = handler;
    if (this.#referenced) this.#count(true);
    this.#host.scheduler.add(this.#consumer);
    return () => {
      if (this.#handler !== handler) return;
      this.#handler = undefined;
      this.#mode = "idle";
      this.#host.scheduler.remove(this.#consumer);
      this.#count(false);
    };
  }

  /** Messages one by one; each is valid until the next is asked for. Leaving the loop closes the subscription. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message<T>, undefined> {
    this.#use("iterator");
    this.#mode = "iterator";
    const iterator: AsyncIterableIterator<Message<T>, undefined> = {
      next: () => this.#nextMessage(),
      return: async () => {
        await this.close();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  async #nextMessage(): Promise<IteratorResult<Message<T>, undefined>> {
    if (this.closed) return { done: true, value: undefined };
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#waiting !== undefined) {
      throw new ShmBusError("ERR_SHM_BUS_IN_USE", "the next message is being waited for already");
    }
    if (this.#available(this.#messages.length)) {
      return { done: false, value: this.#messages[this.#next++] as Message<T> };
    }
    // A listener of a gap may have closed it.
    if (this.closed) return { done: true, value: undefined };
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      if (this.#referenced) this.#count(true);
      this.#host.scheduler.add(this.#consumer);
    });
  }

  /**
   * A duty cycle of your own: calls `handler` for up to `limit` messages that are there, and returns how many. They
   * are valid until `handler` returns. What it throws, `poll` throws: the next `poll` goes on with the message behind.
   */
  poll(handler: (message: Message<T>) => void, limit = 256): number {
    this.#use("idle");
    if (!Number.isInteger(limit) || limit < 1)
      throw invalidOption("limit", "must be a whole number of at least 1");
    if (typeof handler !== "function") throw invalidOption("handler", "must be a function");
    if (!this.#available(Math.min(limit, this.#messages.length))) return 0;
    const { lease } = this.#delivery;
    const first = this.#next;
    const end = Math.min(this.#rows, first + limit);
    let row = first;
    this.#mode = "poll";
    try {
      // Closing the subscription ends the lease.
      while (row < end && lease === this.#delivery.lease) handler(this.#messages[row++] as Message<T>);
    } finally {
      this.#mode = "idle";
      if (lease === this.#delivery.lease) {
        this.#next = row;
        if (row === this.#rows) this.#release();
      }
    }
    this.#checkTorn();
    return row - first;
  }

  /**
   * Blocks this thread until a poll may find something, `timeoutMs` at most: for worker threads. The main thread's
   * event loop stands still meanwhile.
   *
   * @returns whether there is something
   */
  wait(timeoutMs: number = Number.POSITIVE_INFINITY): boolean {
    this.#use("idle");
    if (typeof timeoutMs !== "number" || Number.isNaN(timeoutMs))
      throw invalidOption("timeoutMs", "must be a number");
    const { native, wait } = this.#host;
    const end = performance.now() + timeoutMs;
    const spinEnd =
      wait === "spin" ? end : Math.min(end, performance.now() + (wait === "park" ? 0 : spinMilliseconds));
    let now: number;
    do {
      if (this.#next < this.#rows || this.#ready() !== 0) return true;
      now = performance.now();
    } while (now < spinEnd);
    while (now < end) {
      const seen = translated(() => native.fallAsleep(this.#native));
      try {
        if (this.#ready() !== 0) return true;
        futexWait(this.#host.orderWords(), hintIndex, seen, Math.min(end - now, sliceMilliseconds));
      } finally {
        native.wakeUp(this.#native);
      }
      if (this.#ready() !== 0) return true;
      if (native.isClosed) throw new ShmBusError("ERR_SHM_BUS_CLOSED", "the bus is closed");
      now = performance.now();
    }
    return false;
  }

  /** Lets waiting for messages keep the process alive: the default. */
  ref(): this {
    this.#referenced = true;
    if (this.#handler !== undefined || this.#waiting !== undefined) this.#count(true);
    return this;
  }

  /** Lets the process end while this subscription waits. */
  unref(): this {
    this.#referenced = false;
    this.#count(false);
    return this;
  }

  /** Leaves its groups, unless another subscription of this attachment wants them. Idempotent. */
  close(): Promise<void> {
    return (this.#closing ??= this.#leave());
  }

  async #leave(): Promise<void> {
    this.#endLease();
    this.#handler = undefined;
    this.#host.scheduler.remove(this.#consumer);
    this.#count(false);
    this.#host.closed(this);
    notForgotten(this);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve({ done: true, value: undefined });
    try {
      await this.#native.close(5000);
    } catch (error) {
      // The master is away, or the attachment is being closed: then its departure takes the memberships back.
      const failure = fromNative(error);
      const code = failure instanceof ShmBusError ? failure.code : undefined;
      if (code !== "ERR_SHM_BUS_NO_MASTER" && code !== "ERR_SHM_BUS_CLOSED") throw failure;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  [inspect.custom](): string {
    const state = this.closed ? "closed" : `position: ${this.position}, lag: ${this.lag}`;
    return `Subscription { destinations: [${this.destinations.join(", ")}], ${state} }`;
  }
}
