// oxlint-disable unicorn/require-post-message-target-origin
import { parentPort, workerData } from "node:worker_threads";

import { Ring } from "sharedarraybuffer-ring";

import { read, write } from "./attachment.mjs";

const { buffer, role, id, count } = workerData;
const ring = Ring.open(buffer);
if (role === "write") write(ring, id, count);
else parentPort.postMessage(read(ring, id, count, () => parentPort.postMessage("ready")));
