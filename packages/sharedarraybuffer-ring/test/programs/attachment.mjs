// What an attachment of the tests does, in a worker or in a process of its own.
import { group } from "sharedarraybuffer-ring";

/** Publishes `count` messages, numbered and of many sizes, as single messages and as batches. */
export function write(ring, id, count) {
  const writer = ring.writer(id);
  const message = (n) => {
    const data = new Uint8Array(8 + ((n * 37) % 300)).fill(n);
    new DataView(data.buffer).setUint32(0, id);
    new DataView(data.buffer).setUint32(4, n);
    return { to: group(1), data };
  };
  for (let n = 0; n < count;) {
    const messages = n % 5 === 0 && n + 3 <= count ? [0, 1, 2].map((i) => message(n + i)) : [message(n)];
    const result = writer.batch(messages);
    if (result.status === "published") n += messages.length;
    else if (!writer.waitForSpace(10_000)) throw new Error(`no room for 10 s: ${JSON.stringify(result)}`);
  }
}

/** Reads `total` messages in the order of their senders' numbers and gives a digest of the sequence. */
export function read(ring, id, total, ready) {
  const reader = ring.reader(id, { groups: [1] });
  ready();
  const next = new Map();
  let [digest, seen, last] = [0, 0, 0];
  while (seen !== total) {
    seen += reader.poll((message) => {
      const { data, stamp, index, sender } = message;
      const view = new DataView(data.buffer, data.byteOffset, 8);
      const [from, n] = [view.getUint32(0), view.getUint32(4)];
      if (from !== sender || n !== (next.get(sender) ?? 0)) throw new Error(`${n} of ${from} at ${stamp}`);
      if (!data.subarray(8).every((byte) => byte === n % 256)) throw new Error(`torn at ${stamp}`);
      if (stamp !== last + 1 && !(stamp === last && index > 0)) throw new Error(`${stamp} after ${last}`);
      next.set(sender, n + 1);
      last = stamp;
      digest = (Math.imul(digest, 31) + stamp * 7 + index * 5 + sender * 3 + n) >>> 0;
    });
    if (seen !== total && !reader.wait(10_000)) throw new Error(`nothing to read for 10 s after ${last}`);
  }
  reader.close();
  return digest;
}
