// A gateway in memory, behind `fetch`: it stores, finds duplicates, conflicts and faulty events, and fails as its
// script or its dice say. It keeps its own account of what is stored, in order.

const problem = (status, code, detail, more = {}) => ({ type: 'about:blank', title: '', status, code, detail, ...more });

export class ModelGateway {
  /** In the order in which they were stored: { org, service, id, text, seq }. */
  stored = [];
  requests = [];
  #known = new Map();

  /**
   * `fails` is asked before (`stage` "before") and after ("after") the events of a request are stored, and may answer
   * or throw in place of the gateway; `failsOrg` may give the problem of one of several orgs.
   */
  constructor({ fails = () => null, failsOrg = () => null, limits = {}, forbidden = () => false } = {}) {
    Object.assign(this, { fails, failsOrg, limits: { events: 1000, bytes: 4 << 20, eventBytes: 256 << 10, orgs: 100, ...limits }, forbidden });
    this.fetch = this.fetch.bind(this);
  }

  async fetch(url, init) {
    const text = new TextDecoder().decode(init.body);
    const events = JSON.parse(text);
    this.requests.push({ url, events, headers: init.headers });
    const [, org] = /\/v1\/orgs\/([^/]+)\/events$/.exec(url) ?? [];
    const early = await this.fails('before', init.signal);
    if (early) return early;
    const answer = this.#answer(org, text, events);
    return (await this.fails('after', init.signal)) ?? answer;
  }

  #answer(org, text, events) {
    const refusal = this.#refusal(org, text, events);
    if (refusal) return answered(refusal.status, refusal);
    if (org !== undefined) {
      const outcome = this.#append(org, events);
      return answered(outcome.status ?? 200, outcome);
    }
    const names = [...new Set(events.map((event) => event.org))];
    const parts = new Map(names.map((name) => [name, this.failsOrg(name) ?? this.#append(name, events.filter((event) => event.org === name))]));
    const problems = [...parts.values()].filter((part) => part.code);
    const orgs = [...parts].map(([name, part]) => (part.code ? { org: name, problem: part } : { org: name, cursor: part.cursor }));
    if (problems.length === parts.size && problems.every((part) => part.code === problems[0].code)) {
      const [first] = problems;
      return answered(first.status, parts.size === 1 ? first : { ...first, orgs });
    }
    const places = events.map((event) => {
      const part = parts.get(event.org);
      const place = part.code ? { code: part.code } : part.events.shift();
      return { org: event.org, service: event.service, id: event.id, ...place };
    });
    return answered(problems.length > 0 ? 207 : 200, { orgs, events: places });
  }

  #refusal(org, text, events) {
    const { limits } = this;
    if (text.length > limits.bytes) return problem(413, 'too_large', 'the body', { limit: 'limits.request_bytes' });
    if (events.length > limits.events) return problem(413, 'too_large', 'the batch', { limit: 'limits.events_per_batch' });
    if (events.some((event) => JSON.stringify(event).length > limits.eventBytes)) {
      return problem(413, 'too_large', 'an event', { limit: 'limits.event_bytes' });
    }
    const errors = events.flatMap((event, at) => (event.bad ? [{ pointer: `/${at}/bad`, code: 'unknown_field', detail: 'bad' }] : []));
    if (errors.length > 0) return problem(422, 'invalid', 'the body has faulty fields', { errors: errors.slice(0, 100) });
    if (org === undefined && new Set(events.map((event) => event.org)).size > limits.orgs) {
      return problem(413, 'too_large', 'the orgs', { limit: 'limits.orgs_per_batch' });
    }
    const refused = events.find((event) => this.forbidden(org ?? event.org, event.service));
    return refused ? problem(403, 'forbidden', `the API key does not cover ${refused.service}`) : null;
  }

  /** Whole or not at all. */
  #append(org, events) {
    const fresh = new Map();
    const places = [];
    for (const event of events) {
      const name = `${org} ${event.service} ${event.id}`;
      const text = JSON.stringify(event.data);
      const known = this.#known.get(name) ?? fresh.get(name);
      if (known && known.text !== text) return problem(409, 'id_conflict', 'an id with other content');
      const seq = known?.seq ?? this.stored.length + fresh.size + 1;
      if (!known) fresh.set(name, { org, service: event.service, id: event.id, text, data: event.data, seq });
      places.push({ seq, duplicate: known !== undefined, service: event.service, id: event.id });
    }
    for (const [name, event] of fresh) {
      this.#known.set(name, event);
      this.stored.push(event);
    }
    return { cursor: `e-${Math.max(...places.map(({ seq }) => seq))}`, events: places };
  }
}

export const answered = (status, body, headers = {}) => new Response(typeof body === 'string' ? body : JSON.stringify(body), { status, headers });

export { problem };
