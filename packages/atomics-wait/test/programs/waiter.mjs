// oxlint-disable unicorn/require-post-message-target-origin
// Waits in a worker: `how` is "wait", or "waitAsync" with `count` waits before it blocks.
import { parentPort, workerData } from "node:worker_threads";

import { wait, waitAsync } from "atomics-wait";

const view = new Int32Array(workerData.buffer);
if (workerData.how === "waitAsync") {
  for (let n = 0; n < workerData.count; n++) waitAsync(view, n + 1, 0);
}
parentPort.postMessage("ready");
parentPort.postMessage(wait(view, 0, 0));
