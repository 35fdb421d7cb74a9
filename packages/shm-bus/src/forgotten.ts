/** Something of the addon's that the program has dropped without closing it. */
interface Closable {
  close(timeoutMs: number): Promise<unknown>;
}

const forgotten = new FinalizationRegistry<Closable>((native) => {
  // Nobody waits for it. If the attachment has ended, there is nothing left to close.
  native.close(5000).catch(() => {});
});

/** Closes `native` when the collector finds that the program has dropped `owner`, which native must not hold. */
export function closeWhenForgotten(owner: object, native: Closable): void {
  forgotten.register(owner, native, owner);
}

/** The program has closed `owner` itself. */
export function notForgotten(owner: object): void {
  forgotten.unregister(owner);
}
