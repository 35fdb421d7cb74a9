import type { NativeBus, NativeSubscription } from "@shm-bus/native";

import type { WaitStrategy } from "./options.ts";

/** Something that the event loop delivers to. */
export interface Consumer {
  readonly native: NativeSubscription;
  /** Hands over what there is; `true` if there may be more right away. */
  deliver(): boolean;
}

/** How long `spin-then-park` goes on looking after the last message, in milliseconds: about what a wake costs. */
const spinMilliseconds = 0.02;

/**
 * Delivery through the event loop. While there is something, turns of the loop deliver it; then the attachment
 * announces that it sleeps, looks once more, and leaves the loop idle until its bell wakes it.
 */
export class Scheduler {
  readonly #native: NativeBus;
  readonly #strategy: WaitStrategy;
  readonly #consumers = new Set<Consumer>();
  readonly #wakeListeners = new Set<() => void>();
  #started = false;
  #referenced = 0;
  #armed = false;
  #turn: NodeJS.Immediate | undefined;
  #lastDelivery = 0;

  constructor(native: NativeBus, strategy: WaitStrategy) {
    this.#native = native;
    this.#strategy = strategy;
  }

  /** Takes a consumer in: it is delivered to from the next turn on. */
  add(consumer: Consumer): void {
    this.#start();
    this.#consumers.add(consumer);
    this.#plan();
  }

  remove(consumer: Consumer): void {
    this.#consumers.delete(consumer);
    // Those that remain sleep with their own buckets.
    if (this.#armed) this.#plan();
  }

  /** Calls `listener` at each wake, until it is taken out: for publishers that wait for space. */
  onWake(listener: () => void): () => void {
    this.#start();
    this.#wakeListeners.add(listener);
    return () => this.#wakeListeners.delete(listener);
  }

  /** Counts who keeps the event loop alive. */
  reference(by: 1 | -1): void {
    this.#start();
    this.#referenced += by;
    this.#native.keepAlive(this.#referenced > 0);
    if (this.#referenced === 0 && this.#turn !== undefined) {
      this.#cancel();
      this.#plan();
    }
  }

  stop(): void {
    this.#consumers.clear();
    this.#wakeListeners.clear();
    this.#cancel();
  }

  #start(): void {
    if (this.#started) return;
    this.#started = true;
    this.#native.start(() => this.#onWake());
    this.#native.keepAlive(this.#referenced > 0);
  }

  #onWake(): void {
    this.#native.drainWakes();
    for (const listener of this.#wakeListeners) listener();
    this.#deliver();
  }

  /**
   * Delivers in the next turn of the loop. Where that is no reason to keep the process alive, by the bell: an
   * immediate that is unreferenced runs only when something else ends the loop's sleep.
   */
  #plan(): void {
    if (this.#referenced === 0) {
      this.#native.nudge();
    } else {
      this.#turn ??= setImmediate(() => {
        this.#turn = undefined;
        this.#deliver();
      });
    }
  }

  #cancel(): void {
    if (this.#turn !== undefined) clearImmediate(this.#turn);
    this.#turn = undefined;
  }

  #deliver(): void {
    if (this.#armed) {
      this.#armed = false;
      this.#native.disarm();
    }
    let more = false;
    try {
      for (const consumer of this.#consumers) more = consumer.deliver() || more;
    } finally {
      // Also when a handler throws: the others, and this one's next messages, are delivered all the same.
      if (this.#consumers.size > 0) this.#settle(more);
    }
  }

  #settle(more: boolean): void {
    if (more || this.#strategy === "spin") {
      this.#lastDelivery = performance.now();
      this.#plan();
    } else if (
      this.#strategy === "spin-then-park" &&
      performance.now() - this.#lastDelivery < spinMilliseconds
    ) {
      this.#plan();
    } else {
      const sleepers: NativeSubscription[] = [];
      for (const consumer of this.#consumers) sleepers.push(consumer.native);
      this.#armed = this.#native.arm(sleepers);
      if (!this.#armed) this.#plan();
    }
  }
}
