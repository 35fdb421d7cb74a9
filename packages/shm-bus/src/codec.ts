import { deserialize, serialize } from "node:v8";

import { invalidOption, ShmBusError } from "./errors.ts";

/**
 * Turns values into bytes in the publisher's ring, and views of received bytes into values.
 *
 * `encode` asks for space once, when it knows how many bytes it needs at most, writes into the space it is given and
 * says how many bytes it used: a codec that can encode in place copies nothing.
 */
export interface Codec<T> {
  /** A short name, for messages and inspection. */
  readonly name: string;
  /** Writes `value` into the space that `reserve(bytes)` gives; returns the bytes used. */
  encode(value: T, reserve: (bytes: number) => Uint8Array): number;
  /** Makes a value of a view that is valid only until the lease ends: copy what you keep. */
  decode(view: Uint8Array): T;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Bytes as they are. `decode` gives the view itself: zero copy, valid for the lease. */
export const bytes: Codec<Uint8Array> = {
  name: "bytes",
  encode(value, reserve) {
    reserve(value.byteLength).set(value);
    return value.byteLength;
  },
  decode: (view) => view,
};

/** Strings as UTF-8, encoded in place. */
export const utf8: Codec<string> = {
  name: "utf8",
  encode: (value, reserve) => encoder.encodeInto(value, reserve(value.length * 3)).written,
  decode: (view) => decoder.decode(view),
};

/** JSON text as UTF-8. */
export const json: Codec<unknown> = {
  name: "json",
  encode(value, reserve) {
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined) {
      throw new ShmBusError(
        "ERR_SHM_BUS_INVALID_DATA",
        `JSON has no form for a value of type ${typeof value}`,
      );
    }
    return utf8.encode(text, reserve);
  },
  decode: (view) => JSON.parse(decoder.decode(view)) as unknown,
};

/** Structured clones in V8's own format, as `worker.postMessage` takes them. */
export const structured: Codec<unknown> = {
  name: "structured",
  encode(value, reserve) {
    const serialized = serialize(value);
    reserve(serialized.byteLength).set(serialized);
    return serialized.byteLength;
  },
  decode: (view) => deserialize(view) as unknown,
};

/** The codecs that come with shm-bus. */
export const codecs: {
  readonly bytes: typeof bytes;
  readonly utf8: typeof utf8;
  readonly json: typeof json;
  readonly structured: typeof structured;
} = { bytes, utf8, json, structured };

/** The codec, if it is one. */
export function checkedCodec<T>(codec: Codec<T>): Codec<T> {
  const { encode, decode } = (codec ?? {}) as Partial<Codec<T>>;
  if (typeof encode === "function" && typeof decode === "function") return codec;
  throw invalidOption("codec", "must have the methods encode and decode; shm-bus exports `codecs`");
}
