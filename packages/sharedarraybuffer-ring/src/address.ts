// Where a message goes: a 16-bit prefix (0 for one attachment, otherwise a group) and a 48-bit suffix, in one word.
// Written `prefix:suffix`, with `*` for the suffix of a group.

const suffixes = (1n << 48n) - 1n;

/** The group that every attachment is in. */
export const everyone: bigint = suffixes;

/** The address of one attachment. */
export function unicast(suffix: number | bigint): bigint {
  return BigInt(suffix) & suffixes;
}

/** The address of a group, 1 to 65535. */
export function group(prefix: number): bigint {
  if (!Number.isInteger(prefix) || prefix < 0 || prefix > 0xffff) {
    throw new RangeError(`a group is an integer from 0 to 65535, not ${prefix}`);
  }
  return (BigInt(prefix) << 48n) | suffixes;
}

export function isGroup(address: bigint): boolean {
  return (address & suffixes) === suffixes;
}

export function formatAddress(address: bigint): string {
  const suffix = address & suffixes;
  return `${address >> 48n}:${suffix === suffixes ? "*" : suffix}`;
}

export function parseAddress(text: string): bigint {
  const parts = /^(\d{1,5}):(\*|\d{1,15})$/.exec(text);
  const prefix = BigInt(parts?.[1] ?? 0x1_0000);
  const suffix = parts?.[2] === "*" ? suffixes : BigInt(parts?.[2] ?? 0);
  if (prefix > 0xffffn || suffix > suffixes)
    throw new RangeError(`${text} is no address: write prefix:suffix`);
  return (prefix << 48n) | suffix;
}
