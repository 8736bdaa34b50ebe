// The gateway's addresses.

const ORG = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$/;

/** Where an org's stream and history are: a gateway's base address, an org, some services. */
export interface Place {
  readonly base: string;
  readonly org: string;
  readonly services: readonly string[];
}

/** Checks what the application gave; throws a TypeError that says what is wrong. */
export function place(url: string, org: string, services: readonly string[]): Place {
  let base: URL;
  try {
    base = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError(`url: ${quoted(url)} is not an address; give the gateway's base address, such as https://events.example.com`);
  }
  if (!/^(https?|wss?):$/.test(base.protocol)) throw new TypeError(`url: ${quoted(url)} must begin with https:// or http:// (or wss://, ws://)`);
  if (base.search || base.hash || base.username || base.password) throw new TypeError(`url: ${quoted(url)} must have no query, fragment, user or password`);
  if (/\/v1(\/|$)/.test(base.pathname)) throw new TypeError(`url: give the gateway's base address; /v1/... is added to it, but ${quoted(url)} has it already`);
  for (const name of [org, ...services]) {
    if (typeof name !== 'string' || !ORG.test(name)) throw new TypeError(`${name === org ? 'org' : 'services'}: ${quoted(name)} must be 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot`);
  }
  return { base: base.href.replace(/^ws/, 'http').replace(/\/+$/, ''), org, services };
}

/** The address of what stands under an org. Parameters without a value are left out. */
export function address({ base, org, services }: Place, what: string, parameters: Record<string, string | number | null | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ services: services.join(',') || null, ...parameters })) if (value != null) query.set(name, String(value));
  const text = query.toString();
  return `${base}/v1/orgs/${org}/${what}${text && `?${text}`}`;
}

const quoted = (value: unknown) => JSON.stringify(value) ?? String(value);
