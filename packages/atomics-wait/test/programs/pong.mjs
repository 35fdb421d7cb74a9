// The other process of the tests: answers each odd number in word 0 of the memory at descriptor 3 with the next even one.
import { mapSharedMemory, notify, wait } from "atomics-wait";

const view = new Int32Array(mapSharedMemory(3, 4096));
const rounds = Number(process.argv[2]);
for (let round = 0; round < rounds; round++) {
  while (Atomics.load(view, 0) !== 2 * round + 1) {
    if (wait(view, 0, 2 * round, 15_000) === "timed-out") process.exit(3);
  }
  Atomics.store(view, 0, 2 * round + 2);
  notify(view, 0);
}
