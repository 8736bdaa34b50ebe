// The gateway's addresses.

const NAME = /^[\w-][\w.-]{0,63}$/;

/** Where an org's stream and history are: a gateway's base address, an org, some services. */
export interface Place {
  readonly base: string;
  readonly org: string;
  readonly services: readonly string[];
}

/** Checks what the application gave; throws a TypeError that says what is wrong. */
export function place(url: string, org: string, services: readonly string[] = []): Place {
  let base: URL | '' | undefined;
  try {
    // `undefined`, of a variable that the build did not set, would be an address in this page.
    base = url && new URL(url, globalThis.location?.href);
  } catch {
    // Reported below.
  }
  if (!base || !/^(http|ws)s?:$/.test(base.protocol) || base.search || base.hash || base.username || /\/v1(\/|$)/.test(base.pathname)) {
    throw new TypeError(`url: ${JSON.stringify(url)} is not the base address of a gateway, such as https://events.example.com`);
  }
  for (const name of [org, ...services]) {
    if (typeof name !== 'string' || !NAME.test(name)) throw new TypeError(`org, services: ${JSON.stringify(name)} must be 1 to 64 of A-Z a-z 0-9 . _ -`);
  }
  return { base: base.href.replace(/^ws/, 'http').replace(/\/+$/, ''), org, services };
}

/** The address of what stands under an org. Parameters without a value are left out. */
export function address({ base, org, services }: Place, what: string, parameters: Record<string, string | number | null | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ services: services.join() || null, ...parameters })) if (value != null) query.set(name, `${value}`);
  return `${base}/v1/orgs/${org}/${what}?${query}`;
}
