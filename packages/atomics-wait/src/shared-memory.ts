import { constants } from "node:buffer";

import { atomicsCreateMemory, atomicsMapMemory } from "@shm-bus/native";

import { invalidType, outOfRange } from "./arguments.ts";

export interface SharedMemory {
  /** Zeros at first. Stays valid as long as it is reachable, with or without the descriptor. */
  readonly buffer: ArrayBuffer;
  /** To be handed to other processes, and to be closed by `fs.closeSync` when that is done. Close-on-exec. */
  readonly fd: number;
}

export interface MapOptions {
  /**
   * Maps for loads only. A store then ends the process with SIGSEGV; waits and notifications work.
   * @default false
   */
  readonly readOnly?: boolean | undefined;
}

function checkBytes(bytes: number): void {
  if (typeof bytes !== "number") invalidType("bytes", "a number", bytes);
  if (!Number.isInteger(bytes) || bytes < 1 || bytes > constants.MAX_LENGTH) {
    outOfRange(`bytes must be an integer from 1 to ${constants.MAX_LENGTH}, not ${bytes}`);
  }
}

/**
 * Makes memory that other processes can map: a memfd of `bytes` bytes, rounded up to whole pages, sealed so that nobody can
 * change its size.
 *
 * @throws Error with the code `ERR_ATOMICS_WAIT_SYSTEM` if the system says no (the message says to what);
 * `ERR_ATOMICS_WAIT_EXTERNAL_MEMORY` where the engine allows no such buffers (Electron).
 */
export function createSharedMemory(bytes: number): SharedMemory {
  checkBytes(bytes);
  return atomicsCreateMemory(bytes);
}

/**
 * Maps the first `bytes` bytes of memory that {@link createSharedMemory} made, here or in another process. The descriptor
 * may be closed afterwards.
 *
 * @throws as {@link createSharedMemory}; also if the descriptor is no memfd that is sealed against a change of its size, or
 * is smaller than `bytes`.
 */
export function mapSharedMemory(fd: number, bytes: number, options: MapOptions = {}): ArrayBuffer {
  if (typeof fd !== "number") invalidType("fd", "a number", fd);
  if (!Number.isInteger(fd) || fd < 0 || fd > 0x7fff_ffff) {
    outOfRange(`fd must be a file descriptor, not ${fd}`);
  }
  checkBytes(bytes);
  return atomicsMapMemory(fd, bytes, options.readOnly ?? false);
}
