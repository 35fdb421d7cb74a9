export { notify } from "./notify.ts";
export { createSharedMemory, mapSharedMemory, type MapOptions, type SharedMemory } from "./shared-memory.ts";
export { wait, type WaitResult } from "./wait.ts";
export {
  defaultMaxPending,
  pending,
  setMaxPending,
  waitAsync,
  type WaitAsyncOptions,
  type WaitAsyncResult,
} from "./wait-async.ts";
