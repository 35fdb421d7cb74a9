import { channel } from "node:diagnostics_channel";
import { EventEmitter } from "node:events";
import { inspect } from "node:util";

import { attach, isDetached, type NativeBus, type NativeSubscription } from "@shm-bus/native";
import { readCounters } from "sharedarraybuffer-ring";

import { abortable } from "./abort.ts";
import { Buffers } from "./buffers.ts";
import { Batch } from "./batch.ts";
import { bytes as bytesCodec, checkedCodec, type Codec } from "./codec.ts";
import { fromNative, invalidOption, ShmBusError, translated } from "./errors.ts";
import { type BusEvents, membershipEvents } from "./events.ts";
import { closeWhenForgotten, notForgotten } from "./forgotten.ts";
import { halves, Loan, type LoanHost, wouldBlock } from "./loan.ts";
import type { Destination } from "./message.ts";
import {
  type AttachOptions,
  checkNumbers,
  nativeSubscribeOptions,
  nativeAttachOptions,
  type PublishOptions,
  type SubscribeOptions,
  type WaitStrategy,
} from "./options.ts";
import { MembershipObserver } from "./observer.ts";
import { Scheduler } from "./scheduler.ts";
import { type Host, Subscription } from "./subscription.ts";

/** An attachment, as the directory lists it. */
export interface Peer {
  /** Its unicast address, `0:n`; never given to another. */
  readonly address: string;
  /** Process, user and group as the kernel told the master when it attached. */
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /** The groups it has joined, by name; its own address if it has subscribed to that. */
  readonly groups: readonly string[];
  /** Whether it holds the master's role. */
  readonly master: boolean;
  /** Stamps that its slowest subscription has yet to look at. */
  readonly lag: number;
  readonly published: number;
  readonly delivered: number;
}

/** Counters of this attachment since it attached. */
export interface Stats {
  /** Messages published, and their bytes. */
  readonly published: number;
  readonly publishedBytes: number;
  /** Publishes that found no room. */
  readonly wouldBlock: number;
  /** Messages delivered to subscriptions. */
  readonly delivered: number;
  /** Frames that failed a reader's checks. */
  readonly violations: number;
  /** Stamps that `lossy` subscriptions have missed. */
  readonly missed: number;
  /** How often this attachment went to sleep. */
  readonly sleeps: number;
  /** Stamps that its slowest subscription has yet to look at. */
  readonly lag: number;
}

const publishChannel = channel("shm-bus:publish");
const deliverChannel = channel("shm-bus:deliver");
/** A reader's deadlines run out without anybody waking the publisher: it looks this often. Milliseconds. */
const writablePeriod = 10;

type PublishFunction = (
  destination: number,
  bytes: Uint8Array,
  topicLow: number,
  topicHigh: number,
) => number;

/** Where a message goes: an address (`0:5`), the name of a group (`cpu`), or several of them as one event. */
export type To = string | readonly string[];

/**
 * An attachment to a bus.
 *
 * Messages are published synchronously and get a stamp, their place in the one order of the bus. Two attachments see
 * what both see in the same order.
 */
export class Bus<T = Uint8Array> extends EventEmitter<BusEvents> implements AsyncDisposable {
  /** The name of the bus. */
  readonly name: string;
  /** This attachment's unicast address, `0:n`; `0:0` for the one that founded the bus. */
  readonly address: string;
  /** The random id of the bus, 32 hexadecimal digits: another bus of the same name has another. */
  readonly id: string;
  /** The largest payload of a message to one address, in bytes. */
  readonly maxMessageBytes: number;
  readonly #native: NativeBus;
  readonly #publish: PublishFunction;
  readonly #codec: Codec<T>;
  readonly #host: Host;
  readonly #loanHost: LoanHost = {
    check: () => this.#notBatching(),
    published: (stamp) => {
      if (publishChannel.hasSubscribers) this.#announce(stamp);
    },
  };
  /** Held weakly: what the program drops is closed. */
  readonly #subscriptions = new Set<WeakRef<Subscription<unknown>>>();
  /** Numbers of destinations that were resolved once: addresses and groups keep their meaning. */
  readonly #destinations = new Map<string, number>();
  readonly #observer: MembershipObserver;
  #orderBuffer: ArrayBuffer | undefined;
  #orderWords: Int32Array | undefined;
  #batching = false;
  /** Whether a codec writes into the batch now. */
  #encoding = false;
  #batch: Batch | undefined;
  #closing: Promise<void> | undefined;

  private constructor(name: string, native: NativeBus, options: AttachOptions<T>) {
    super();
    this.name = name;
    this.address = native.address;
    this.id = native.busId;
    this.maxMessageBytes = native.maxMessageBytes;
    this.#native = native;
    this.#publish = native.publishFunction() as PublishFunction;
    this.#codec = options.codec ?? (bytesCodec as Codec<unknown> as Codec<T>);
    const wait: WaitStrategy = options.wait ?? "spin-then-park";
    const buffers = new Buffers(native);
    this.#host = {
      native,
      wait,
      buffers,
      scheduler: new Scheduler(native, wait),
      checkLeases: options.checkLeases ?? false,
      orderWords: () => this.#openOrderWords(),
      // The control records say so too, to everyone; this attachment learns it from its own subscription.
      evicted: (stamp) => void this.emit("evicted", { stamp, address: this.address }),
      gap: (subscription, stamp, until) =>
        void this.emit("gap", { stamp, until, subscription: subscription as Subscription<unknown> }),
      delivered: (count) => {
        if (deliverChannel.hasSubscribers)
          deliverChannel.publish({ bus: this.name, address: this.address, count });
      },
      closed: (subscription) => this.#forget(subscription),
    };
    closeWhenForgotten(this, native);
    this.#observer = new MembershipObserver({
      native,
      scheduler: this.#host.scheduler,
      address: this.address,
      subscribe: () => this.#subscribeNative([], false, {}, true),
      emit: (event, ...details) => void (this as EventEmitter).emit(event, ...details),
      hasSubscriptions: () => this.#openSubscriptions().length > 0,
      lost: () => void this.close(),
    });
    (this as EventEmitter).on("newListener", (event: string | symbol) => {
      if (typeof event === "string" && membershipEvents.has(event)) this.#observer.start();
    });
  }

  /**
   * Attaches to the bus `name`. If there is none, this process founds it and becomes its master (see
   * {@link AttachOptions.master}). Names have 1 to 64 bytes and no slash; one that starts with `@` has no socket file.
   *
   * @throws {ShmBusError} `ERR_SHM_BUS_INVALID_NAME`, `_INVALID_OPTION`, `_RUNTIME_DIRECTORY`, `_UNSUPPORTED`,
   * `_NOT_FOUND`, `_EXISTS`, `_NO_MASTER`, `_LAYOUT_VERSION`, `_REFUSED`, `_SYSTEM`; nothing is left behind
   */
  static async attach<T = Uint8Array>(name: string, options: AttachOptions<T> = {}): Promise<Bus<T>> {
    if (typeof name !== "string") {
      throw new ShmBusError(
        "ERR_SHM_BUS_INVALID_NAME",
        `the name of a bus must be a string, not ${typeof name}`,
      );
    }
    if (options.codec !== undefined) checkedCodec(options.codec);
    options.signal?.throwIfAborted();
    const attaching = translated(() => attach(name, nativeAttachOptions(options as AttachOptions<never>)));
    try {
      const native = await abortable(
        attaching as Promise<NativeBus>,
        options.signal,
        (late) => void late.close(),
      );
      return new Bus<T>(name, native, options);
    } catch (error) {
      throw fromNative(error);
    }
  }

  /** Whether it is closed: by {@link Bus.close}, or because the bus let this attachment go. */
  get closed(): boolean {
    return this.#closing !== undefined || this.#native.isClosed;
  }

  /** Whether this attachment holds the master's role now. */
  get isMaster(): boolean {
    return this.#native.isMaster;
  }

  /** Who this attachment is to the others: as the kernel told the master. */
  get credentials(): { readonly pid: number; readonly uid: number; readonly gid: number } {
    const own = this.peers().find(({ address }) => address === this.address);
    if (own === undefined) throw new ShmBusError("ERR_SHM_BUS_CLOSED", "the bus has let this attachment go");
    return { pid: own.pid, uid: own.uid, gid: own.gid };
  }

  /** The subscriptions that the program has neither closed nor dropped. */
  #openSubscriptions(): Subscription<unknown>[] {
    return [...this.#subscriptions].flatMap((reference) => reference.deref() ?? []);
  }

  #forget(closed: object): void {
    for (const reference of this.#subscriptions) {
      const subscription = reference.deref();
      if (subscription === undefined || subscription === closed) this.#subscriptions.delete(reference);
    }
  }

  #open(): void {
    if (this.#closing !== undefined) throw new ShmBusError("ERR_SHM_BUS_CLOSED", "the bus is closed");
  }

  #destination(to: To): number {
    // A list's key is never a name: names have no control characters.
    const key = typeof to === "string" ? to : `${checkedNames("destination", to).join("\n")}\n`;
    const known = this.#destinations.get(key);
    if (known !== undefined) return known;
    const number = translated(() => this.#native.destination(typeof to === "string" ? [to] : [...to]));
    this.#destinations.set(key, number);
    return number;
  }

  /**
   * Publishes a value: bytes, unless the attachment or `options` has another codec. Synchronous; when it returns, the
   * message is in the order.
   *
   * @returns the stamp; 0 inside a {@link Bus.batch}
   * @throws {ShmBusError} and nothing is published: `ERR_SHM_BUS_WOULD_BLOCK` (await {@link Bus.writable}),
   * `_UNKNOWN_GROUP`, `_UNKNOWN_ADDRESS`, `_UNREACHABLE` (it has not subscribed to its address), `_TOO_BIG`,
   * `_DUPLICATE_DESTINATION`, `_INVALID_DATA` (no bytes, or a detached or resizable buffer), `_CLOSED`
   */
  publish(to: To, value: T): number;
  publish<U>(to: To, value: U, options: PublishOptions<U> & { codec: Codec<U> }): number;
  publish(to: To, value: T, options: PublishOptions<T>): number;
  publish(to: To, value: unknown, options?: { topic?: bigint; codec?: unknown }): number {
    this.#open();
    const codec = (options?.codec ?? this.#codec) as Codec<unknown>;
    const [low, high] = options?.topic === undefined ? [0, 0] : halves(options.topic);
    if (codec !== (bytesCodec as Codec<unknown>))
      return this.#encode(to, value, checkedCodec(codec), low, high);
    const data = checkedBytes(value);
    const destination = this.#destination(to);
    if (this.#batching) return this.#publishInBatch(to, destination, data, low, high);
    let stamp: number;
    try {
      stamp = this.#publish(destination, data, low, high);
    } catch (error) {
      throw fromNative(error);
    }
    if (stamp < 0) throw wouldBlock();
    if (publishChannel.hasSubscribers) this.#announce(stamp);
    return stamp;
  }

  #publishInBatch(to: To, destination: number, data: Uint8Array, low: number, high: number): number {
    this.#notEncoding();
    const batch = this.#batch as Batch;
    if (typeof to === "string" && batch.add(destination, data, low, high)) return 0;
    batch.flush();
    if (translated(() => this.#publish(destination, data, low, high)) < 0) throw wouldBlock();
    batch.resume();
    return 0;
  }

  #encode(to: To, value: unknown, codec: Codec<unknown>, low: number, high: number): number {
    if (this.#batching) this.#beginEncoding();
    let loan: { number: number; bytes: Uint8Array } | undefined;
    let space = 0;
    try {
      const length = codec.encode(value, (bytes) => {
        if (loan !== undefined) throw invalidOption("codec", `${codec.name} asked for space twice`);
        loan = this.#loan(to, bytes);
        space = bytes;
        return loan.bytes;
      });
      if (loan === undefined) throw invalidOption("codec", `${codec.name} never asked for space`);
      const { number } = loan;
      if (!Number.isInteger(length) || length < 0 || length > space) {
        throw invalidOption("codec", `${codec.name} says that it wrote ${length} of ${space} bytes`);
      }
      const stamp = translated(() => this.#native.publishLoan(number, length, low, high));
      loan = undefined;
      if (stamp < 0) throw wouldBlock();
      if (this.#batching) this.#batch?.resume();
      if (publishChannel.hasSubscribers) this.#announce(stamp);
      return stamp;
    } finally {
      this.#encoding = false;
      if (loan !== undefined) this.#native.abandonLoan(loan.number);
    }
  }

  /** The messages of a batch stand behind one another: none may come into being within another. */
  #beginEncoding(): void {
    this.#notEncoding();
    this.#batch?.flush();
    this.#encoding = true;
  }

  #notEncoding(): void {
    if (this.#encoding)
      throw new ShmBusError("ERR_SHM_BUS_IN_USE", "a codec that encodes for a batch cannot publish itself");
  }

  #announce(stamp: number): void {
    publishChannel.publish({ bus: this.name, address: this.address, stamp });
  }

  #loan(to: To, bytes: number): { number: number; bytes: Uint8Array } {
    this.#open();
    if (!Number.isInteger(bytes) || bytes < 0) {
      throw new ShmBusError("ERR_SHM_BUS_INVALID_DATA", `a loan needs a whole number of bytes, not ${bytes}`);
    }
    const destination = this.#destination(to);
    const loan = translated(() => this.#native.loan(destination, bytes));
    if (loan === null) throw wouldBlock();
    const [number, offset] = loan as [number, number];
    return { number, bytes: new Uint8Array(this.#host.buffers.own, offset, bytes) };
  }

  #notBatching(): void {
    if (this.#batching) throw new ShmBusError("ERR_SHM_BUS_IN_USE", "a batch takes publish(), not loans");
  }

  /**
   * Reserves `bytes` bytes in this attachment's own ring, to be written in place and published without a copy.
   *
   * @throws {ShmBusError} as {@link Bus.publish}
   */
  loan(to: To, bytes: number): Loan {
    this.#notBatching();
    const { number, bytes: space } = this.#loan(to, bytes);
    return new Loan(this.#native, number, space, this.#loanHost);
  }

  /**
   * Publishes everything that `publishAll` publishes as one event: adjacent in the order, one stamp, all or none. If
   * it throws, nothing is published. At most 1024 messages; it must not be asynchronous.
   *
   * @returns the stamp; 0 if nothing was published
   */
  batch(publishAll: () => void): number {
    this.#open();
    if (this.#batching) throw invalidOption("batch", "batches cannot be nested");
    const batch = (this.#batch ??= new Batch(this.#native, this.#host.buffers));
    batch.begin();
    this.#batching = true;
    try {
      const result: unknown = publishAll();
      if (result instanceof Promise) {
        result.catch(() => {});
        throw invalidOption(
          "batch",
          "takes a synchronous function; what it awaits would be published without it",
        );
      }
    } catch (error) {
      batch.abandon();
      throw error;
    } finally {
      this.#batching = false;
    }
    const stamp = translated(() => batch.end());
    if (stamp < 0) throw wouldBlock();
    if (stamp > 0 && publishChannel.hasSubscribers) this.#announce(stamp);
    return stamp;
  }

  /** Waits until the message that found no room would find it. */
  async writable(options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = options;
    signal?.throwIfAborted();
    this.#open();
    const { scheduler } = this.#host;
    this.#native.wantSpace(true);
    scheduler.reference(1);
    try {
      while (!translated(() => this.#native.isWritable())) {
        await this.#nextWake(signal);
        this.#open();
      }
    } finally {
      scheduler.reference(-1);
      if (!this.#native.isClosed) this.#native.wantSpace(false);
    }
  }

  #nextWake(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => () => {
        clearTimeout(timer);
        unlisten();
        signal?.removeEventListener("abort", onAbort);
        act();
      };
      const onAbort = settle(() => reject(signal?.reason as Error));
      const onWake = settle(resolve);
      const timer = setTimeout(onWake, writablePeriod);
      const unlisten = this.#host.scheduler.onWake(onWake);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /**
   * Makes the group `name` unless there is one, so that it can be published to before anyone has subscribed. Names
   * have 1 to 200 bytes and no control characters. `*` is everyone's and always there.
   *
   * @returns its address
   */
  async createGroup(name: string, options: { signal?: AbortSignal; timeout?: number } = {}): Promise<string> {
    this.#open();
    options.signal?.throwIfAborted();
    if (typeof name !== "string") {
      throw new ShmBusError(
        "ERR_SHM_BUS_INVALID_NAME",
        `the name of a group must be a string, not ${typeof name}`,
      );
    }
    const { timeout = 5000 } = options;
    checkNumbers({ timeout });
    const creating = translated(() => this.#native.createGroup(name, timeout)) as Promise<string>;
    try {
      const address = await abortable(creating, options.signal, () => {});
      this.#observer.learnGroup(address, name);
      return address;
    } catch (error) {
      throw fromNative(error);
    }
  }

  /**
   * Subscribes to groups by name (made if they are missing) and to this attachment's own {@link Bus.address}. The
   * first message is the one behind this subscription's own join record: nothing after that is missed.
   *
   * @throws {ShmBusError} `ERR_SHM_BUS_INVALID_NAME`, `_INVALID_OPTION`, `_REFUSED`, `_LIMIT`, `_NO_MASTER`, `_CLOSED`
   */
  async subscribe(to: To): Promise<Subscription<T>>;
  async subscribe<U>(to: To, options: SubscribeOptions<U> & { codec: Codec<U> }): Promise<Subscription<U>>;
  async subscribe(to: To, options: SubscribeOptions<T>): Promise<Subscription<T>>;
  async subscribe(
    to: To,
    options: Omit<SubscribeOptions, "codec"> & { codec?: unknown } = {},
  ): Promise<unknown> {
    this.#open();
    options.signal?.throwIfAborted();
    if (options.codec !== undefined) checkedCodec(options.codec as Codec<unknown>);
    const names = [...new Set(typeof to === "string" ? [to] : checkedNames("to", to))];
    if (names.length === 0) throw invalidOption("to", "a subscription needs at least one group or address");
    const groups = names.filter((name) => name !== this.address);
    const foreign = groups.find((name) => /^\d+:(\d+|\*)$/.test(name));
    if (foreign !== undefined) {
      throw invalidOption(
        "to",
        `${foreign} is an address; subscribe to groups by name, and to this attachment's own address`,
      );
    }
    const native = await this.#subscribeNative(groups, groups.length < names.length, options, false);
    const destinations = native.addresses.map((address, index): Destination => {
      const group = groups[index];
      if (group !== undefined) this.#observer.learnGroup(address, group);
      return { address, group };
    });
    const codec = (options.codec ?? this.#codec) as Codec<unknown>;
    const subscription = new Subscription<unknown>(this.#host, native, destinations, codec);
    if (this.#closing !== undefined) {
      await subscription.close();
      throw new ShmBusError("ERR_SHM_BUS_CLOSED", "the bus was closed meanwhile");
    }
    this.#subscriptions.add(new WeakRef(subscription));
    return subscription;
  }

  async #subscribeNative(
    groups: string[],
    ownAddress: boolean,
    options: Omit<SubscribeOptions, "codec">,
    records: boolean,
  ): Promise<NativeSubscription> {
    const { signal } = options;
    const native = nativeSubscribeOptions(options, records);
    const subscribing = translated(() => this.#native.subscribe(groups, ownAddress, native));
    try {
      return await abortable(
        subscribing as Promise<NativeSubscription>,
        signal,
        (late) => void late.close(native.timeoutMs).catch(() => {}),
      );
    } catch (error) {
      throw fromNative(error);
    }
  }

  #openOrderWords(): Int32Array {
    this.#orderBuffer ??= this.#native.orderBuffer() as ArrayBuffer;
    return (this.#orderWords ??= new Int32Array(this.#orderBuffer));
  }

  /** The attachments on the bus, as its master last wrote them down. */
  peers(): Peer[] {
    this.#open();
    return translated(() => this.#native.peers()).map(
      ({ address, pid, uid, gid, groups, master, lag, published, delivered }) => ({
        address,
        pid,
        uid,
        gid,
        groups,
        master,
        lag,
        published,
        delivered,
      }),
    );
  }

  /** This attachment's counters, read from its own page. */
  stats(): Stats {
    this.#open();
    return { ...readCounters(this.#host.buffers.own), lag: this.#native.lag };
  }

  /**
   * Detaches: ends all subscriptions, and every view becomes empty. What was published stays readable for those it was
   * sent to. Idempotent.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#detach());
  }

  async #detach(): Promise<void> {
    this.#host.scheduler.stop();
    // The departure takes every membership back: nobody has to be asked for each.
    const subscriptions = this.#openSubscriptions();
    notForgotten(this);
    const detached = this.#native.close() as Promise<void>;
    await Promise.allSettled(subscriptions.map((subscription) => subscription.close()));
    await this.#observer.stop();
    await detached;
    this.#host.buffers.detach();
    if (this.#orderBuffer !== undefined) this.#native.detachBuffer(this.#orderBuffer);
    this.#orderBuffer = undefined;
    this.#orderWords = undefined;
    try {
      this.emit("close");
    } finally {
      this.removeAllListeners();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  [inspect.custom](): string {
    const state =
      this.#closing === undefined ? `subscriptions: ${this.#openSubscriptions().length}` : "closed";
    return `Bus { name: '${this.name}', address: '${this.address}', ${state} }`;
  }
}

/** A list of destinations, if it is one. */
function checkedNames(option: string, to: unknown): readonly string[] {
  if (Array.isArray(to) && to.every((one) => typeof one === "string")) return to as readonly string[];
  throw invalidOption(option, "must be an address, the name of a group, or a list of them");
}

/** The buffer that was checked last: looking whether it can be resized costs as much as copying a small message. */
let fixedBuffer: ArrayBufferLike | undefined;
/** A larger one is not kept from the garbage collector for that. */
const largestFixedBuffer = 1 << 16;

/** The bytes of a value that the `bytes` codec can publish. */
function checkedBytes(value: unknown): Uint8Array {
  if (!(value instanceof Uint8Array)) {
    throw new ShmBusError(
      "ERR_SHM_BUS_INVALID_DATA",
      `data must be a Uint8Array or a Buffer, not ${value === null ? "null" : typeof value}; or choose a codec`,
    );
  }
  const { buffer } = value;
  if (buffer !== fixedBuffer) {
    const { resizable, growable } = buffer as { resizable?: boolean; growable?: boolean };
    if (resizable === true || growable === true) {
      throw new ShmBusError(
        "ERR_SHM_BUS_INVALID_DATA",
        "data must not stand in a resizable buffer; copy it first",
      );
    }
    if (buffer.byteLength <= largestFixedBuffer) fixedBuffer = buffer;
  }
  if (value.byteLength === 0 && isDetached(buffer)) {
    throw new ShmBusError("ERR_SHM_BUS_INVALID_DATA", "the data's buffer is detached");
  }
  return value;
}
