// Waits on a read-only map of the memory at descriptor 3, asynchronously, and tells what it saw by its exit code.
import { mapSharedMemory, waitAsync } from "atomics-wait";

const view = new Int32Array(mapSharedMemory(3, 4096, { readOnly: true }));
const alive = setTimeout(() => process.exit(3), 15_000);
const waiting = waitAsync(view, 5, 0);
if (process.argv[2] === "store") view[6] = 1;
const how = waiting.async ? await waiting.value : "already";
clearTimeout(alive);
process.exitCode = how === "timed-out" || Atomics.load(view, 5) !== 42 ? 4 : 0;
