import type { NativeBus, NativeRecord, NativeSubscription } from "@shm-bus/native";

import { fromNative, ShmBusError } from "./errors.ts";
import type { BusEvents } from "./events.ts";
import type { Scheduler } from "./scheduler.ts";

/** What the observer needs of its bus. */
export interface ObserverHost {
  readonly native: NativeBus;
  readonly scheduler: Scheduler;
  /** The attachment's own address. */
  readonly address: string;
  /** A subscription that reads control records only. */
  subscribe(): Promise<NativeSubscription>;
  emit<E extends keyof BusEvents>(event: E, ...details: BusEvents[E]): void;
  /** Whether the program has subscriptions, which tell it of an eviction themselves. */
  hasSubscriptions(): boolean;
  /** The bus has let this attachment go. */
  lost(): void;
}

/** A poll gives the number of messages in its low half and flags in its high half. */
const rowsMask = 0xffff;

/**
 * Turns control records into events, for those who listen to them. Does not keep the process alive.
 */
export class MembershipObserver {
  readonly #host: ObserverHost;
  readonly #groupNames = new Map<string, string>([["0:*", "*"]]);
  readonly #addresses = new Map<number, string>();
  #subscription: Promise<NativeSubscription> | undefined;
  #stopped = false;

  constructor(host: ObserverHost) {
    this.#host = host;
  }

  /** Remembers the name of a group, for events that tell of it by its address. */
  learnGroup(address: string, name: string): void {
    this.#groupNames.set(address, name);
  }

  /** Reads the control records from now on. Idempotent. */
  start(): void {
    if (this.#subscription !== undefined) return;
    this.#subscription = this.#observe();
    // What went wrong was emitted.
    this.#subscription.catch(() => {});
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    try {
      await (await this.#subscription)?.close(0);
    } catch {
      // It never came to be, or the bus is gone: either way nothing is read any more.
    }
  }

  async #observe(): Promise<NativeSubscription> {
    let native: NativeSubscription;
    try {
      native = await this.#host.subscribe();
    } catch (error) {
      if (!this.#stopped) this.#host.emit("error", error);
      throw error;
    }
    for (const peer of this.#host.native.peers()) this.#addresses.set(peer.id, peer.address);
    const poll = native.pollFunction() as (limit: number) => number;
    const limit = native.rows;
    const records: NativeRecord[] = [];
    const consumer = {
      native,
      deliver: (): boolean => {
        for (;;) {
          // A listener that throws has had its event; what comes behind it is told in the next turn.
          for (let next = records.shift(); next !== undefined; next = records.shift()) this.#emit(next);
          const failure = this.#read(poll, limit);
          records.push(...native.takeRecords());
          if (records.length > 0) continue;
          if (failure !== undefined) {
            this.#host.scheduler.remove(consumer);
            this.#failed(native, failure);
          }
          return false;
        }
      },
    };
    this.#host.scheduler.add(consumer);
    return native;
  }

  /** Reads all there is, and gives what ended the reading if it was not the end of the order. */
  #read(poll: (limit: number) => number, limit: number): unknown {
    try {
      while ((poll(limit) & rowsMask) > 0);
    } catch (error) {
      return fromNative(error);
    }
    return undefined;
  }

  #failed(native: NativeSubscription, error: unknown): void {
    const code = error instanceof ShmBusError ? error.code : undefined;
    if (code === "ERR_SHM_BUS_CLOSED") {
      this.#host.lost();
    } else if (code === "ERR_SHM_BUS_EVICTED") {
      // An eviction is the whole attachment's. What happened meanwhile is lost, later changes are told again.
      native.close(0).catch(() => {});
      const { stamp = native.position } = error as ShmBusError;
      this.#subscription = this.#observe();
      this.#subscription.catch(() => {});
      if (!this.#host.hasSubscriptions()) this.#host.emit("evicted", { stamp, address: this.#host.address });
    } else {
      throw error;
    }
  }

  #emit(record: NativeRecord): void {
    const { stamp, kind, id = -1, text } = record;
    if (kind === "group") {
      if (record.address !== undefined && text !== undefined) this.learnGroup(record.address, text);
      return;
    }
    if (kind === "attached" && record.address !== undefined) this.#addresses.set(id, record.address);
    const address = record.address ?? this.#addresses.get(id);
    const groups = (record.addresses ?? []).map((one) => this.#groupNames.get(one) ?? one);
    switch (kind) {
      case "attached": {
        const { pid = 0, uid = 0, gid = 0 } = record;
        this.#host.emit("attached", { stamp, address, pid, uid, gid });
        break;
      }
      case "departed":
        this.#addresses.delete(id);
        this.#host.emit("departed", { stamp, address, reason: text === "died" ? "died" : "closed" });
        break;
      case "joined":
      case "left":
        // Readers of control records alone, and those whose groups another subscription still wants, change nothing.
        if (groups.length > 0) this.#host.emit(kind, { stamp, address, groups });
        break;
      case "evicted":
        // This attachment's own is told by the subscription that learns of it.
        if (address !== this.#host.address) this.#host.emit("evicted", { stamp, address });
        break;
      case "master":
        this.#host.emit("master", { stamp, address });
        break;
      default:
        break;
    }
  }
}
