import type { Bus, BusEvents } from "../src/index.ts";

export type EventName = "attached" | "departed" | "joined" | "left" | "evicted" | "master";

/** A membership event with its name. */
export interface SeenEvent {
  readonly name: EventName;
  readonly stamp: number;
  readonly address: string | undefined;
  readonly reason?: string;
  readonly groups?: readonly string[];
  readonly pid?: number;
  readonly uid?: number;
  readonly gid?: number;
}

const names: readonly EventName[] = ["attached", "departed", "joined", "left", "evicted", "master"];

/** Keeps the membership events of a bus, in the order in which they came. */
export class Watch {
  readonly seen: SeenEvent[] = [];
  readonly #listeners = new Set<() => void>();

  private constructor(bus: Bus) {
    for (const name of names) {
      bus.on(name, (event: BusEvents[EventName][0]) => {
        this.seen.push({ name, ...event });
        for (const listener of this.#listeners) listener();
      });
    }
  }

  /** Begins, and returns when events are seen to come: what happens from then on is not missed. */
  static async begin(bus: Bus): Promise<Watch> {
    const watch = new Watch(bus);
    const begun = () => watch.seen.some(({ name, address }) => name === "joined" && address === bus.address);
    // Its own changes, until it sees one of them.
    while (!begun()) await (await bus.subscribe("watching")).close();
    return watch;
  }

  /** The first event of which all this is true, as soon as it is there. */
  async of(wanted: Partial<SeenEvent>): Promise<SeenEvent> {
    const keys = Object.keys(wanted) as (keyof SeenEvent)[];
    const find = () => this.seen.find((event) => keys.every((key) => event[key] === wanted[key]));
    for (;;) {
      const event = find();
      if (event !== undefined) return event;
      await new Promise<void>((resolve) => {
        const listener = () => {
          this.#listeners.delete(listener);
          resolve();
        };
        this.#listeners.add(listener);
      });
    }
  }
}
