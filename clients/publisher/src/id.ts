// Ids of events that have none: UUIDv7 (RFC 9562, section 5.7), as the gateway itself makes them.

/** `wall` is in milliseconds since 1970. */
export function uuidV7(wall: number): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const view = new DataView(bytes.buffer);
  view.setUint16(0, Math.floor(wall / 2 ** 32) & 0xffff);
  view.setUint32(2, wall >>> 0);
  view.setUint8(6, (view.getUint8(6) & 0x0f) | 0x70);
  view.setUint8(8, (view.getUint8(8) & 0x3f) | 0x80);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
