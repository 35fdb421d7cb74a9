// Has waits pending at its end: nothing keeps it alive.
import { pending, waitAsync } from "atomics-wait";

const view = new Int32Array(new SharedArrayBuffer(64));
for (let n = 0; n < 16; n++) waitAsync(view, n, 0, n % 2 === 0 ? undefined : 1e9);
if (pending() !== 16) process.exitCode = 2;
if (process.argv[2] === "exit") setImmediate(() => process.exit(7));
