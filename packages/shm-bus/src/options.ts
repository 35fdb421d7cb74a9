import type { NativeAttachOptions, NativeSubscribeOptions } from "@shm-bus/native";

import type { Codec } from "./codec.ts";
import { invalidOption } from "./errors.ts";

/**
 * How a reader that finds nothing waits: `spin` looks again and again (lowest latency, a whole processor),
 * `spin-then-park` looks for 20 µs and then sleeps, `park` sleeps at once.
 */
export type WaitStrategy = "spin" | "spin-then-park" | "park";

/** Options of {@link Bus.attach}. */
export interface AttachOptions<T = Uint8Array> {
  /** Gives up waiting for the master. */
  signal?: AbortSignal;
  /** Who may found the bus: `auto` (default) joins it or founds it, `never` only joins, `only` only founds. */
  master?: "auto" | "never" | "only";
  /** Bytes of the payload ring: a power of two from 64 KiB to 8 GiB, 4 MiB by default. The largest message is a quarter. */
  ringBytes?: number;
  /** Messages in flight: a power of two from 64 to 32768, 16384 by default, and at most a
   * quarter of the bus's slots: an attachment with more is refused. Each takes 128 bytes. */
  headers?: number;
  /** Slots of the order, if this attachment founds the bus: a power of two from 256 to 2^24, 2^18 by
   * default. Fewer slots mean that those who join need fewer headers. */
  slots?: number;
  /** The directory of the bus's socket and lock: absolute, this user's own, mode 0700. */
  runtimeDirectory?: string;
  /** Milliseconds to wait for the master's answer, 5000 by default. */
  timeout?: number;
  /** Number of the application's own protocol: the master refuses any other than its own. 0 by default. */
  protocol?: number;
  /** How values become bytes, unless a call says otherwise. `bytes` by default. */
  codec?: Codec<T>;
  /** How readers of this attachment wait. `spin-then-park` by default. */
  wait?: WaitStrategy;
  /** Delivers copies that become empty when their lease ends: slower, finds late uses. `false` by default. */
  checkLeases?: boolean;
}

/** What happens when a ring is full because of a reader: see {@link SubscribeOptions.overload}. */
export type Overload = "block" | "pinned" | "lossy" | "evict";

/** Options of {@link Bus.subscribe}. */
export interface SubscribeOptions<T = Uint8Array> {
  /** Gives up waiting for the master. */
  signal?: AbortSignal;
  /**
   * What happens when a ring is full because of this reader.
   *
   * - `block` (default): publishers wait for it, {@link SubscribeOptions.deadline} milliseconds at most; then it is
   *   evicted and told the first stamp it lost. An attachment evicted three times is refused it.
   * - `pinned`: publishers wait for it without a bound.
   * - `lossy`: nobody waits for it. Its messages are copies; what it missed is told exactly, by a `gap` event of the bus
   *   and by {@link Subscription.missed}.
   * - `evict`: nobody waits for it: it is evicted when a ring is full because of it, or when it is more than
   *   {@link SubscribeOptions.maxLag} stamps behind.
   *
   * All subscriptions of an attachment but the `lossy` ones share one fate: a second one has the same, or leaves it out.
   */
  overload?: Overload;
  /** With `block`: milliseconds, 100 by default, 10000 at most. */
  deadline?: number;
  /**
   * With `evict`: stamps, from 1 to the slots of the bus, which is the default. Publishers look each quarter of it, or
   * each eight stamps.
   */
  maxLag?: number;
  /** Milliseconds to wait for the master's answer, 5000 by default. */
  timeout?: number;
  /** How bytes become values, the attachment's codec by default. */
  codec?: Codec<T>;
}

/** Options of {@link Bus.publish}. */
export interface PublishOptions<T = Uint8Array> {
  /** A 64-bit word of the sender's own, in the header. 0 by default. */
  topic?: bigint;
  /** How the value becomes bytes, the attachment's codec by default. */
  codec?: Codec<T>;
}

const strategies: readonly string[] = ["spin", "spin-then-park", "park"];

/** Options that are numbers if they are given; the addon checks their ranges. */
export function checkNumbers(options: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && typeof value !== "number") throw invalidOption(name, "must be a number");
  }
}

/** The options as the addon takes them, checked. */
export function nativeAttachOptions(options: AttachOptions<never>): NativeAttachOptions {
  const native: NativeAttachOptions = {};
  const { master, ringBytes, headers, slots, runtimeDirectory, timeout, protocol, wait } = options;
  if (wait !== undefined && !strategies.includes(wait)) {
    throw invalidOption("wait", `must be one of ${strategies.join(", ")}, not ${String(wait)}`);
  }
  if (master !== undefined) native.master = String(master);
  checkNumbers({ ringBytes, headers, slots, timeout, protocol });
  if (ringBytes !== undefined) native.ringBytes = ringBytes;
  if (headers !== undefined) native.headers = headers;
  if (slots !== undefined) native.slots = slots;
  if (timeout !== undefined) native.timeoutMs = timeout;
  if (protocol !== undefined) {
    if (!Number.isInteger(protocol) || protocol < 0 || protocol > 0xffff_ffff) {
      throw invalidOption("protocol", "must be a whole number from 0 to 4294967295");
    }
    native.protocol = protocol;
  }
  if (runtimeDirectory !== undefined) {
    if (typeof runtimeDirectory !== "string" || !runtimeDirectory.startsWith("/")) {
      throw invalidOption("runtimeDirectory", "must be an absolute path");
    }
    native.runtimeDirectory = runtimeDirectory;
  }
  return native;
}

/** The options as the addon takes them; it checks ranges and what goes together. */
export function nativeSubscribeOptions(
  options: Omit<SubscribeOptions, "codec">,
  records: boolean,
): NativeSubscribeOptions {
  const { overload, deadline, maxLag, timeout = 5000 } = options;
  checkNumbers({ deadline, maxLag, timeout });
  const native: NativeSubscribeOptions = { timeoutMs: timeout, records };
  if (overload !== undefined) native.overload = String(overload);
  if (deadline !== undefined) native.deadlineMs = deadline;
  if (maxLag !== undefined) native.maxLag = maxLag;
  return native;
}
