/** A change of who is on the bus, at its place in the order. */
export interface MembershipEvent {
  readonly stamp: number;
  /** The attachment's address. */
  readonly address: string | undefined;
}

/** Events of a {@link Bus}. */
export interface BusEvents {
  attached: [MembershipEvent & { readonly pid: number; readonly uid: number; readonly gid: number }];
  departed: [MembershipEvent & { readonly reason: "closed" | "died" }];
  joined: [MembershipEvent & { readonly groups: readonly string[] }];
  left: [MembershipEvent & { readonly groups: readonly string[] }];
  evicted: [MembershipEvent];
  master: [MembershipEvent];
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
