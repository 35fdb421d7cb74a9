import type { Subscription } from "./subscription.ts";

/** A change of who is on the bus, at its place in the order. */
export interface MembershipEvent {
  readonly stamp: number;
  /** The attachment's address. */
  readonly address: string | undefined;
}

/** What a `lossy` subscription has missed: the stamps from `stamp` up to `until`, without `until`. */
export interface GapEvent {
  readonly stamp: number;
  readonly until: number;
  readonly subscription: Subscription<unknown>;
}

/** Events of a {@link Bus}. */
export interface BusEvents {
  attached: [MembershipEvent & { readonly pid: number; readonly uid: number; readonly gid: number }];
  departed: [MembershipEvent & { readonly reason: "closed" | "died" }];
  joined: [MembershipEvent & { readonly groups: readonly string[] }];
  left: [MembershipEvent & { readonly groups: readonly string[] }];
  evicted: [MembershipEvent];
  master: [MembershipEvent];
  /** Comes before the messages behind the gap. */
  gap: [GapEvent];
  close: [];
  error: [unknown];
}

/** The events that tell of changes in the order. */
export const membershipEvents: ReadonlySet<string> = new Set([
  "attached",
  "departed",
  "joined",
  "left",
  "evicted",
  "master",
]);
