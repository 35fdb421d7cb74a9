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

/** Schedulers that somebody waits for: they stay, whoever else holds them or not. */
const active = new Set<Scheduler>();

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
    active.add(this);
    this.#plan();
  }

  remove(consumer: Consumer): void {
    this.#consumers.delete(consumer);
    this.#rest();
    // Those that remain sleep with their own buckets.
    if (this.#armed) this.#plan();
  }

  /** Calls `listener` at each wake, until it is taken out: for publishers that wait for space. */
  onWake(listener: () => void): () => void {
    this.#start();
    this.#wakeListeners.add(listener);
    active.add(this);
    return () => {
      this.#wakeListeners.delete(listener);
      this.#rest();
    };
  }

  #rest(): void {
    if (this.#consumers.size + this.#wakeListeners.size === 0) active.delete(this);
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
    active.delete(this);
    this.#cancel();
  }

  #start(): void {
    if (this.#started) return;
    this.#started = true;
    // The addon keeps the callback until the attachment ends; it must not keep a bus that nobody uses any more.
    const scheduler = new WeakRef(this);
    this.#native.start(() => {
      const awake = scheduler.deref();
      if (awake !== undefined) awake.#onWake();
    });
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
    // A handler that throws ends this turn: the others, and what it has not got to itself, have the next one.
    let more = true;
    try {
      let some = false;
      for (const consumer of this.#consumers) some = consumer.deliver() || some;
      more = some;
    } finally {
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
