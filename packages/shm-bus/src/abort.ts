/**
 * Settles with `promise`, or rejects with the signal's reason as soon as it aborts. What the promise still brings
 * after that is given to `discard`.
 */
export async function abortable<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
  discard: (late: T) => void,
): Promise<T> {
  if (signal === undefined) return promise;
  let onAbort = () => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(signal.reason as Error);
  });
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } catch (error) {
    if (signal.aborted) void discardLate(promise, discard);
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

async function discardLate<T>(promise: Promise<T>, discard: (late: T) => void): Promise<void> {
  try {
    discard(await promise);
  } catch {
    // Nothing came, so there is nothing to give back.
  }
}
