// The memory of the ring is at descriptor 3.
import * as waiting from "atomics-wait";
import { Ring } from "sharedarraybuffer-ring";

import { read, write } from "./attachment.mjs";

const [bytes, role, id, count] = process.argv.slice(2);
const ring = Ring.open(waiting.mapSharedMemory(3, Number(bytes)), { waiting });
if (role === "write") write(ring, Number(id), Number(count));
else console.log(read(ring, Number(id), Number(count), () => console.log("ready")));
