/**
 * Reading procfs without strings: a file kept open, read by position into one reused buffer,
 * and parsers that take their numbers straight from the bytes.
 */
import { closeSync, openSync, readSync } from "node:fs";

/** `counter`: only grows, show its change a second. `gauge`: a level, show it as it is. */
export type FieldKind = "counter" | "gauge";

/** What one number of a sample means. */
export interface FieldDescription {
  /** Name, unique within its group, such as `receive.bytes`. */
  readonly name: string;
  /** Unit of the value, such as `bytes`, `ticks` (1/100 s of processor time), `microseconds`. */
  readonly unit: string;
  readonly kind: FieldKind;
}

/** Takes the values of one file's text from its bytes. */
export interface ProcfsParser {
  readonly fields: readonly FieldDescription[];
  /**
   * Writes `fields.length` values to `target`, from `offset` on. Values are doubles: exact up to
   * 2^53, the nearest double above that.
   */
  parse(bytes: Uint8Array, length: number, target: Float64Array, offset: number): void;
}

const newline = 0x0a;
const space = 0x20;
const colon = 0x3a;
const equals = 0x3d;
const dot = 0x2e;
const minus = 0x2d;
const digitZero = 0x30;

/** A file of procfs that stays open; every `read` starts at its beginning again. */
export class ProcfsFile {
  readonly path: string;
  #descriptor: number;
  #buffer: Uint8Array;
  readonly #wholeInOneRead: boolean;

  /**
   * @param wholeInOneRead - true for files that the kernel hands over in one piece (`stat`,
   *   `meminfo`, `loadavg`, `pressure/*`), which saves the read that finds the end.
   * @throws the error of `open` where the file is missing.
   */
  constructor(path: string, wholeInOneRead: boolean, initialBytes = 16_384) {
    this.path = path;
    this.#descriptor = openSync(path, "r");
    this.#buffer = new Uint8Array(initialBytes);
    this.#wholeInOneRead = wholeInOneRead;
  }

  /** The bytes of the latest `read`; a new array after a read that had to make room. */
  get bytes(): Uint8Array {
    return this.#buffer;
  }

  /** Reads the whole file and returns its length in bytes. */
  read(): number {
    for (;;) {
      const length = this.#fill();
      if (length < this.#buffer.length) return length;
      this.#buffer = new Uint8Array(this.#buffer.length * 2);
    }
  }

  #fill(): number {
    const buffer = this.#buffer;
    let length = 0;
    while (length < buffer.length) {
      const count = readSync(this.#descriptor, buffer, length, buffer.length - length, length);
      if (count === 0) break;
      length += count;
      if (this.#wholeInOneRead) break;
    }
    return length;
  }

  /** Closes the file; a second call does nothing. */
  close(): void {
    if (this.#descriptor < 0) return;
    closeSync(this.#descriptor);
    this.#descriptor = -1;
  }
}

/** A place in some bytes, moved on by each call; everything stops at the end of the line. */
class Cursor {
  bytes: Uint8Array = new Uint8Array(0);
  position = 0;
  end = 0;

  reset(bytes: Uint8Array, length: number): void {
    this.bytes = bytes;
    this.position = 0;
    this.end = Math.min(length, bytes.length);
  }

  get atEnd(): boolean {
    return this.position >= this.end;
  }

  /** The byte at the cursor; a newline at the end of the text. */
  peek(): number {
    return this.position < this.end ? (this.bytes[this.position] ?? newline) : newline;
  }

  skipSpaces(): void {
    while (this.peek() === space) this.position += 1;
  }

  /** Moves to the first byte of the next line. */
  nextLine(): void {
    const { bytes, end } = this;
    const near = Math.min(end, this.position + 96);
    let position = this.position;
    while (position < near && bytes[position] !== newline) position += 1;
    if (position === near && position < end) {
      // A long line (`intr` of /proc/stat): let the native search run over it.
      const found = bytes.indexOf(newline, position);
      position = found < 0 ? end : found;
    }
    this.position = Math.min(position + 1, end);
  }

  /** True, and past the bytes, if the text goes on with them. */
  accept(expected: Uint8Array): boolean {
    const { bytes, position } = this;
    if (position + expected.length > this.end) return false;
    for (let index = 0; index < expected.length; index += 1) {
      if (bytes[position + index] !== expected[index]) return false;
    }
    this.position = position + expected.length;
    return true;
  }

  /** Moves past the next `=` of the line; false if there is none. */
  skipPastEquals(): boolean {
    for (;;) {
      const byte = this.peek();
      if (byte === newline) return false;
      this.position += 1;
      if (byte === equals) return true;
    }
  }

  /**
   * The next unsigned or signed decimal number of the line, past anything that is no digit;
   * NaN at the end of the line.
   */
  number(): number {
    const { bytes, end } = this;
    let position = this.position;
    let byte = newline;
    let negative = false;
    for (;;) {
      byte = position < end ? (bytes[position] ?? newline) : newline;
      if (byte >= digitZero && byte <= digitZero + 9) break;
      if (byte === newline) {
        this.position = position;
        return Number.NaN;
      }
      negative = byte === minus;
      position += 1;
    }
    let value = 0;
    while (byte >= digitZero && byte <= digitZero + 9) {
      value = value * 10 + (byte - digitZero);
      position += 1;
      byte = position < end ? (bytes[position] ?? newline) : newline;
    }
    if (byte === dot) {
      let divisor = 1;
      let fraction = 0;
      for (;;) {
        position += 1;
        byte = position < end ? (bytes[position] ?? newline) : newline;
        if (byte < digitZero || byte > digitZero + 9) break;
        fraction = fraction * 10 + (byte - digitZero);
        divisor *= 10;
      }
      value += fraction / divisor;
    }
    this.position = position;
    return negative ? -value : value;
  }

  /** A hash (FNV-1a, 32 bits) of the bytes up to the next space, colon or line end. */
  wordHash(): number {
    let hash = 0x811c9dc5;
    for (;;) {
      const byte = this.peek();
      if (byte === space || byte === colon || byte === newline) return hash >>> 0;
      hash = Math.imul(hash ^ byte, 0x01000193);
      this.position += 1;
    }
  }
}

function hashOfWord(word: string): number {
  const cursor = new Cursor();
  const bytes = new TextEncoder().encode(word);
  cursor.reset(bytes, bytes.length);
  return cursor.wordHash();
}

/** One wanted number of a line: the sum of some of the line's numbers. */
export interface WantedColumn extends FieldDescription {
  /** Which numbers of the line, counted from 0 after its key; more than one are added up. */
  readonly columns: readonly number[];
  /** What the value is multiplied by, such as 1024 for kB; 1 unless told. */
  readonly scale?: number;
}

/** A wanted line: its first word, without a colon, and what is taken from it. */
export interface WantedLine {
  readonly key: string;
  readonly wanted: readonly WantedColumn[];
}

interface PlannedLine {
  readonly key: Uint8Array;
  /** For each column the index of the field it is added to, or -1. */
  readonly targets: Int32Array;
  lineNumber: number;
}

function lineKeys(bytes: Uint8Array, length: number): Map<string, number> {
  const text = new TextDecoder().decode(bytes.subarray(0, length));
  const keys = new Map<string, number>();
  let lineNumber = 0;
  for (const line of text.split("\n")) {
    const key = /^\s*([^\s:]+)/.exec(line)?.[1];
    if (key !== undefined && !keys.has(key)) keys.set(key, lineNumber);
    lineNumber += 1;
  }
  return keys;
}

/**
 * Parser of files whose lines start with a word that names them: `stat`, `meminfo`, `vmstat`,
 * `pressure/*`. The first text shows on which line each word stands; later texts are read by
 * line number, with the word checked, and the plan is made again if a line moved.
 */
export class KeyedLinesParser implements ProcfsParser {
  readonly fields: readonly FieldDescription[];
  readonly #lines: readonly PlannedLine[];
  readonly #scales: readonly number[];
  readonly #afterEquals: boolean;
  readonly #cursor = new Cursor();
  #ordered: PlannedLine[] = [];

  /**
   * @param afterEquals - true where the numbers stand as `name=number`.
   */
  constructor(bytes: Uint8Array, length: number, wanted: readonly WantedLine[], afterEquals = false) {
    const present = lineKeys(bytes, length);
    const encoder = new TextEncoder();
    const fields: FieldDescription[] = [];
    const scales: number[] = [];
    const lines: PlannedLine[] = [];
    for (const line of wanted) {
      if (!present.has(line.key)) continue;
      const last = Math.max(...line.wanted.flatMap((column) => column.columns));
      const targets = new Int32Array(last + 1).fill(-1);
      for (const { name, unit, kind, columns, scale } of line.wanted) {
        for (const column of columns) targets[column] = fields.length;
        fields.push({ name, unit, kind });
        scales.push(scale ?? 1);
      }
      lines.push({ key: encoder.encode(line.key), targets, lineNumber: 0 });
    }
    this.fields = fields;
    this.#lines = lines;
    this.#scales = scales;
    this.#afterEquals = afterEquals;
    this.#plan(bytes, length);
  }

  #plan(bytes: Uint8Array, length: number): void {
    const present = lineKeys(bytes, length);
    const decoder = new TextDecoder();
    const ordered: PlannedLine[] = [];
    for (const line of this.#lines) {
      const lineNumber = present.get(decoder.decode(line.key));
      if (lineNumber === undefined) continue;
      line.lineNumber = lineNumber;
      ordered.push(line);
    }
    this.#ordered = ordered.sort((a, b) => a.lineNumber - b.lineNumber);
  }

  parse(bytes: Uint8Array, length: number, target: Float64Array, offset: number): void {
    if (!this.#tryParse(bytes, length, target, offset)) {
      this.#plan(bytes, length);
      this.#tryParse(bytes, length, target, offset);
    }
  }

  #tryParse(bytes: Uint8Array, length: number, target: Float64Array, offset: number): boolean {
    const cursor = this.#cursor;
    cursor.reset(bytes, length);
    target.fill(0, offset, offset + this.fields.length);
    let lineNumber = 0;
    for (const line of this.#ordered) {
      while (lineNumber < line.lineNumber) {
        cursor.nextLine();
        lineNumber += 1;
      }
      cursor.skipSpaces();
      if (!cursor.accept(line.key)) return false;
      const after = cursor.peek();
      if (after !== space && after !== colon) return false;
      const { targets } = line;
      for (let column = 0; column < targets.length; column += 1) {
        if (this.#afterEquals && !cursor.skipPastEquals()) break;
        const value = cursor.number();
        // Older kernels have shorter lines.
        if (Number.isNaN(value)) break;
        const field = targets[column] ?? -1;
        if (field >= 0) {
          const index = offset + field;
          target[index] = (target[index] ?? 0) + value * (this.#scales[field] ?? 1);
        }
      }
    }
    return true;
  }
}

/** Parser of `/proc/loadavg`: load over 1, 5 and 15 minutes, runnable and all threads. */
export class LoadAverageParser implements ProcfsParser {
  readonly fields: readonly FieldDescription[] = [
    { name: "load.1min", unit: "threads", kind: "gauge" },
    { name: "load.5min", unit: "threads", kind: "gauge" },
    { name: "load.15min", unit: "threads", kind: "gauge" },
    { name: "threads.runnable", unit: "threads", kind: "gauge" },
    { name: "threads.all", unit: "threads", kind: "gauge" },
  ];
  readonly #cursor = new Cursor();

  parse(bytes: Uint8Array, length: number, target: Float64Array, offset: number): void {
    this.#cursor.reset(bytes, length);
    for (let index = 0; index < this.fields.length; index += 1) {
      target[offset + index] = this.#cursor.number();
    }
  }
}

const cpuWord = new TextEncoder().encode("cpu");

/** Parser of `/proc/schedstat` (versions 15 to 17), summed over the processors. */
export class SchedulerStatisticsParser implements ProcfsParser {
  readonly fields: readonly FieldDescription[] = [
    { name: "run.time", unit: "nanoseconds", kind: "counter" },
    { name: "run.delay", unit: "nanoseconds", kind: "counter" },
    { name: "timeslices", unit: "timeslices", kind: "counter" },
  ];
  readonly #cursor = new Cursor();

  parse(bytes: Uint8Array, length: number, target: Float64Array, offset: number): void {
    const cursor = this.#cursor;
    cursor.reset(bytes, length);
    let runTime = 0;
    let runDelay = 0;
    let timeslices = 0;
    while (!cursor.atEnd) {
      if (cursor.accept(cpuWord)) {
        // The processor's number, then six numbers of no use here.
        for (let skipped = 0; skipped < 7; skipped += 1) cursor.number();
        runTime += cursor.number() || 0;
        runDelay += cursor.number() || 0;
        timeslices += cursor.number() || 0;
      }
      cursor.nextLine();
    }
    target[offset] = runTime;
    target[offset + 1] = runDelay;
    target[offset + 2] = timeslices;
  }
}

const loopbackHash = hashOfWord("lo");

/**
 * Parser of `/proc/net/dev`: the sum over all interfaces but the loopback, which stands alone.
 */
export class NetworkDevicesParser implements ProcfsParser {
  readonly fields: readonly FieldDescription[] = [
    { name: "receive.bytes", unit: "bytes", kind: "counter" },
    { name: "receive.packets", unit: "packets", kind: "counter" },
    { name: "receive.errors", unit: "packets", kind: "counter" },
    { name: "receive.dropped", unit: "packets", kind: "counter" },
    { name: "transmit.bytes", unit: "bytes", kind: "counter" },
    { name: "transmit.packets", unit: "packets", kind: "counter" },
    { name: "transmit.errors", unit: "packets", kind: "counter" },
    { name: "transmit.dropped", unit: "packets", kind: "counter" },
    { name: "loopback.bytes", unit: "bytes", kind: "counter" },
    { name: "loopback.packets", unit: "packets", kind: "counter" },
    { name: "interfaces", unit: "interfaces", kind: "gauge" },
  ];
  readonly #cursor = new Cursor();

  parse(bytes: Uint8Array, length: number, target: Float64Array, offset: number): void {
    const cursor = this.#cursor;
    cursor.reset(bytes, length);
    target.fill(0, offset, offset + this.fields.length);
    let interfaces = 0;
    cursor.nextLine();
    cursor.nextLine();
    while (!cursor.atEnd) {
      cursor.skipSpaces();
      const name = cursor.wordHash();
      if (cursor.peek() === colon) {
        interfaces += 1;
        if (name === loopbackHash) {
          target[offset + 8] = cursor.number() || 0;
          target[offset + 9] = cursor.number() || 0;
        } else {
          // Eight numbers received, eight sent; the first four of each are taken.
          for (let column = 0; column < 12; column += 1) {
            const value = cursor.number() || 0;
            const field = column < 4 ? column : column < 8 ? -1 : column - 4;
            if (field >= 0) target[offset + field] = (target[offset + field] ?? 0) + value;
          }
        }
      }
      cursor.nextLine();
    }
    target[offset + 10] = interfaces;
  }
}

/** Bytes in a sector of `/proc/diskstats`, whatever the disk's own sector is. */
const sectorBytes = 512;

/** Parser of `/proc/diskstats`: the sum over the disks named at its construction. */
export class DiskStatisticsParser implements ProcfsParser {
  readonly fields: readonly FieldDescription[] = [
    { name: "reads", unit: "requests", kind: "counter" },
    { name: "read.bytes", unit: "bytes", kind: "counter" },
    { name: "read.time", unit: "milliseconds", kind: "counter" },
    { name: "writes", unit: "requests", kind: "counter" },
    { name: "write.bytes", unit: "bytes", kind: "counter" },
    { name: "write.time", unit: "milliseconds", kind: "counter" },
    { name: "in.flight", unit: "requests", kind: "gauge" },
    { name: "busy.time", unit: "milliseconds", kind: "counter" },
    { name: "queue.time", unit: "milliseconds", kind: "counter" },
  ];
  readonly #disks: ReadonlySet<number>;
  readonly #cursor = new Cursor();

  constructor(disks: Iterable<string>) {
    this.#disks = new Set([...disks].map(hashOfWord));
  }

  parse(bytes: Uint8Array, length: number, target: Float64Array, offset: number): void {
    const cursor = this.#cursor;
    cursor.reset(bytes, length);
    target.fill(0, offset, offset + this.fields.length);
    while (!cursor.atEnd) {
      // The device's major and minor number, then its name.
      cursor.number();
      cursor.number();
      cursor.skipSpaces();
      if (this.#disks.has(cursor.wordHash())) {
        for (let column = 0; column < 11; column += 1) {
          const value = cursor.number() || 0;
          switch (column) {
            case 0:
              this.#add(target, offset, value);
              break;
            case 2:
              this.#add(target, offset + 1, value * sectorBytes);
              break;
            case 3:
              this.#add(target, offset + 2, value);
              break;
            case 4:
              this.#add(target, offset + 3, value);
              break;
            case 6:
              this.#add(target, offset + 4, value * sectorBytes);
              break;
            case 7:
              this.#add(target, offset + 5, value);
              break;
            case 8:
              this.#add(target, offset + 6, value);
              break;
            case 9:
              this.#add(target, offset + 7, value);
              break;
            case 10:
              this.#add(target, offset + 8, value);
              break;
            // 1 and 5: requests merged, which are not reported.
          }
        }
      }
      cursor.nextLine();
    }
  }

  #add(target: Float64Array, index: number, value: number): void {
    target[index] = (target[index] ?? 0) + value;
  }
}

/** The names of the devices in a text of `/proc/diskstats`. */
export function diskNames(bytes: Uint8Array, length: number): string[] {
  const text = new TextDecoder().decode(bytes.subarray(0, length));
  const names: string[] = [];
  for (const line of text.split("\n")) {
    const name = line.trim().split(/\s+/)[2];
    if (name !== undefined) names.push(name);
  }
  return names;
}
