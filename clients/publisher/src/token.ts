// @tidegate/publisher/token: tokens for readers, made by the back-end of a page.

import { faultOfNames } from './names.js';

export interface TokenOptions {
  /** The `secret` of the gateway's key: its text as it is, not decoded. 32 bytes or more. */
  secret: string | Uint8Array;
  /** The tenant whose stream it opens. */
  org: string;
  /** The logged-in user. */
  user: string;
  /** The services that this user may see; `['*']` for all. */
  services: readonly string[];
  /**
   * How long it is valid, in seconds. At most 30 days. Ten minutes are usual: pages get a new one by themselves. A
   * multiple of 60,000 is refused: it is probably minutes in milliseconds.
   */
  expiresInS: number;
  /** Which key signed it, if the gateway has several. */
  kid?: string | undefined;
  /** Who made it, if the gateway has several issuers. */
  iss?: string | undefined;
  /** For whom it is, if the gateway asks for that. */
  aud?: string | undefined;
  /** Now, in milliseconds since 1970. Default: `Date.now`. */
  now?: (() => number) | undefined;
}

/** `auth.max_token_life` of a gateway, by default. */
const LIFE_S_MAX = 30 * 24 * 3600;
const LIFE = `it is a number of seconds from now, at most ${LIFE_S_MAX} (30 days)`;
const SECRET_BYTES_MIN = 32;
/** The names of all options. `satisfies` fails if one is missing. */
const NAMES = Object.keys({
  secret: 0, org: 0, user: 0, services: 0, expiresInS: 0, kid: 0, iss: 0, aud: 0, now: 0,
} satisfies Record<keyof TokenOptions, 0>);
const NAME = /^(?!\.)[A-Za-z0-9._-]{1,64}$/;

/**
 * Makes a JWT (RFC 7519) signed with HS256, which a gateway takes whose `[[auth.keys]]` has this secret.
 * Rejects with a `TypeError` if an option is wrong: a token that the gateway would refuse is not made.
 */
export async function mintToken(options: TokenOptions): Promise<string> {
  const fault = faultOfNames(options, NAMES);
  if (fault !== null) throw wrong(fault);
  const { org, user, services, expiresInS, kid, iss, aud, now = Date.now } = options;
  const secret = secretOf(options.secret);
  if (!isText(org) || !NAME.test(org)) throw wrong('org must be 1 to 64 of A-Z a-z 0-9 . _ - and not start with a dot');
  if (!isText(user) || !/^[!-+\--~]{1,128}$/.test(user)) {
    throw wrong('user must be 1 to 128 printable ASCII characters without space or comma');
  }
  checkServices(services);
  checkLife(expiresInS);
  if (kid !== undefined && (!isText(kid) || new TextEncoder().encode(kid).length > 128)) {
    throw wrong('kid must be text of at most 128 bytes');
  }
  for (const [name, value] of [['iss', iss], ['aud', aud]] as const) {
    if (value !== undefined && (!isText(value) || value === '')) throw wrong(`${name} must be text, or be left out`);
  }
  const iat = Math.floor(now() / 1000);
  const head = encoded(JSON.stringify({ alg: 'HS256', typ: 'JWT', kid }));
  const claims = encoded(JSON.stringify({ sub: user, org, services, iat, exp: iat + expiresInS, iss, aud }));
  const key = await crypto.subtle.importKey('raw', secret, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  const signature = await crypto.subtle.sign('HMAC', key, new TextEncoder().encode(`${head}.${claims}`));
  return `${head}.${claims}.${base64url(new Uint8Array(signature))}`;
}

function secretOf(secret: unknown): Uint8Array<ArrayBuffer> {
  if (!isText(secret) && !(secret instanceof Uint8Array)) {
    throw wrong('secret must be text or bytes; is the environment variable that holds it set?');
  }
  const bytes = isText(secret) ? new TextEncoder().encode(secret) : new Uint8Array(secret);
  const [last] = bytes.subarray(-1);
  if (last === 0x0a || last === 0x0d) {
    throw wrong('secret ends with a line break, which the gateway removes when it reads secret_file: remove it, too');
  }
  if (bytes.length < SECRET_BYTES_MIN) {
    throw wrong(`secret has ${bytes.length} bytes; the gateway asks for ${SECRET_BYTES_MIN} or more`);
  }
  return bytes;
}

function checkServices(services: unknown) {
  if (!Array.isArray(services) || services.length === 0) {
    throw wrong("services must be a list of at least one name, or ['*'] for all services");
  }
  if (services.includes('*') && services.length > 1) throw wrong("services must be ['*'] alone, or names without '*'");
  const bad = services.find((name) => name !== '*' && !(isText(name) && NAME.test(name)));
  if (bad !== undefined) {
    throw wrong(`services has ${JSON.stringify(bad)}; a name is 1 to 64 of A-Z a-z 0-9 . _ - and does not start with a dot`);
  }
}

function checkLife(seconds: unknown) {
  if (seconds instanceof Date) throw wrong(`expiresInS is a date; ${LIFE}`);
  if (typeof seconds !== 'number' || !Number.isSafeInteger(seconds) || seconds < 1) {
    throw wrong(`expiresInS must be a whole number of seconds, at least 1; ${LIFE}`);
  }
  if (seconds > LIFE_S_MAX) {
    const hint = seconds > 1e9 ? 'it is a duration, not a point in time' : 'is it in milliseconds?';
    throw wrong(`expiresInS is ${seconds} s, and at most ${LIFE_S_MAX} s are allowed: it is longer than 30 days, which the gateway refuses; ${hint}`);
  }
  // Ten minutes in milliseconds are a week in seconds, which the gateway takes.
  if (seconds % 60_000 === 0) {
    throw wrong(`expiresInS is ${seconds} s, ${Math.round(seconds / 3600)} hours; are these milliseconds? Then give ${seconds / 1000}. `
      + `If the hours are meant, give a second less; ${LIFE}`);
  }
}

const isText = (value: unknown): value is string => typeof value === 'string';
const wrong = (sentence: string) => new TypeError(`mintToken: ${sentence}`);
const encoded = (text: string) => base64url(new TextEncoder().encode(text));
const base64url = (bytes: Uint8Array) =>
  btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
