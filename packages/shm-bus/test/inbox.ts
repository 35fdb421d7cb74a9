import type { Message, Subscription } from "../src/index.ts";

/** What a test keeps of a message. */
export interface Received {
  stamp: number;
  index: number;
  sender: string;
  destination: string;
  group: string | undefined;
  topic: bigint;
  time: number;
  bytes: Uint8Array;
  text: string;
}

export function received(message: Message<unknown>): Received {
  const { stamp, index, sender, destination, group, topic, time } = message;
  const bytes = message.copy();
  return {
    stamp,
    index,
    sender,
    destination,
    group,
    topic,
    time,
    bytes,
    text: new TextDecoder().decode(bytes),
  };
}

/** Reads a subscription by its handler and keeps copies. */
export class Inbox {
  readonly #queue: Received[] = [];
  #want: { count: number; resolve: () => void } | undefined;

  constructor(subscription: Subscription<unknown>) {
    subscription.onMessages((batch) => {
      for (const message of batch) this.#queue.push(received(message));
      if (this.#want !== undefined && this.#queue.length >= this.#want.count) {
        this.#want.resolve();
        this.#want = undefined;
      }
    });
  }

  /** The next `count` messages, as soon as they are there. */
  async take(count: number): Promise<Received[]> {
    if (this.#queue.length < count) {
      await new Promise<void>((resolve) => {
        this.#want = { count, resolve };
      });
    }
    return this.#queue.splice(0, count);
  }

  async texts(count: number): Promise<string[]> {
    return (await this.take(count)).map((message) => message.text);
  }
}
