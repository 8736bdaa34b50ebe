// The gateway's addresses.

/** Where an org's stream and history are: a gateway's base address, an org, some services. */
export interface Place {
  readonly base: string;
  readonly org: string;
  readonly services: readonly string[];
}

/** The base address of a gateway, as it was given; null if it is none. */
export function baseOf(url: string): string | null {
  let base: URL;
  try {
    base = new URL(url, globalThis.location?.href);
  } catch {
    return null;
  }
  const isOne = /^(http|ws)s?:$/.test(base.protocol) && !base.search && !base.hash && !base.username && !/\/v1(\/|$)/.test(base.pathname);
  return isOne ? base.href.replace(/^ws/, 'http').replace(/\/+$/, '') : null;
}

/** The address of what stands under an org. Parameters without a value are left out. */
export function address({ base, org, services }: Place, what: string, parameters: Record<string, string | number | null | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ services: services.join() || null, ...parameters })) if (value != null) query.set(name, `${value}`);
  return `${base}/v1/orgs/${org}/${what}?${query}`;
}
