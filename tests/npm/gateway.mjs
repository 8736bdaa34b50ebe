// A gateway for tests: `tidegate dev` on a free port and with its own directory, killed and restarted on
// both. Nothing is left running, whatever happens.
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const START_MS = 30_000;
const LEEWAY_S = 30; // auth.leeway

// Below the range of ephemeral ports: a client that retries a closed port of that range can end up connected
// to itself, and then holds the port.
export const freePort = () => 10_000 + Math.floor(Math.random() * 20_000);

export class Gateway {
  #program; #arguments; #child = null;

  /** `arguments`: further ones for `tidegate dev`, such as `--no-feed`. */
  constructor(program, ...more) {
    this.#program = program;
    this.#arguments = more;
    this.dir = mkdtempSync(join(tmpdir(), 'tidegate-test-'));
    this.log = ''; // its standard error, over all restarts
    process.once('exit', () => this.#remove());
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
  }

  async start() {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#launch(freePort());
      } catch (error) {
        if (tries === 5) throw error;
      }
    }
  }

  get pid() { return this.#child.pid; }

  /** Starts it again, where it was. */
  restart() { return this.#launch(new URL(this.url).port); }

  async #launch(port) {
    const child = spawn(this.#program, [
      'dev', '--json', '--data-dir', this.dir, '--listen', `127.0.0.1:${port}`,
      '--set', 'listen.admin="127.0.0.1:0"', '--set', 'logs.level=trace', ...this.#arguments,
    ], { stdio: ['ignore', 'pipe', 'pipe'] });
    let words = '';
    child.stderr.on('data', (chunk) => { words = (words + chunk).slice(-2000); this.log += chunk; });
    this.#child = child;
    const line = await new Promise((resolve, reject) => {
      const late = setTimeout(() => { child.kill('SIGKILL'); reject(new Error('the gateway did not say that it serves')); }, START_MS);
      createInterface(child.stdout).once('line', (text) => { clearTimeout(late); resolve(text); });
      child.once('error', (error) => { clearTimeout(late); reject(error); });
      child.once('exit', (status) => { clearTimeout(late); reject(new Error(`the gateway ended (${status}): ${words}`)); });
    });
    Object.assign(this, JSON.parse(line)); // url, admin_url, org, token, publish_key
    return this;
  }

  /** As the kernel does when memory runs out: no handler, no last word. */
  async kill() {
    const child = this.#child;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }

  /** Publishes events; `id` is theirs or the gateway's. */
  async publish(...events) {
    const answer = await fetch(`${this.url}/v1/orgs/${this.org}/events`, {
      method: 'POST',
      headers: { authorization: `Bearer ${this.publish_key}`, 'content-type': 'application/json' },
      body: JSON.stringify(events),
    });
    if (answer.status !== 200) throw new Error(`a publish was answered with ${answer.status}: ${await answer.text()}`);
    return answer.json();
  }

  /** A token for the reader of `token` that the gateway takes for so many seconds from now. */
  expiring(seconds) {
    const [, secret] = /^secret = "(.*)"$/m.exec(readFileSync(join(this.dir, 'dev.toml'), 'utf8'));
    const [head, claims] = this.token.split('.');
    const exp = Math.floor(Date.now() / 1000) + seconds - LEEWAY_S;
    const body = Buffer.from(JSON.stringify({ ...JSON.parse(Buffer.from(claims, 'base64url')), exp })).toString('base64url');
    return `${head}.${body}.${createHmac('sha256', secret).update(`${head}.${body}`).digest('base64url')}`;
  }

  /** Whether a stream is open. */
  async isTaken() {
    const metrics = await (await fetch(`${this.admin_url}/metrics`)).text();
    return [...metrics.matchAll(/^tidegate_connections\{[^}]*\} (\d+)/gm)].some(([, count]) => Number(count) > 0);
  }

  /** All events of the log, or those after a cursor, that the reader may see. */
  async history(cursor = '') {
    const events = [];
    for (let after = cursor && `&after=${cursor}`; ;) {
      const answer = await fetch(`${this.url}/v1/orgs/${this.org}/events?limit=1000${after}`, {
        headers: { authorization: `Bearer ${this.token}` },
      });
      if (answer.status !== 200) throw new Error(`history was answered with ${answer.status}: ${await answer.text()}`);
      const page = await answer.json();
      if (page.gap) throw new Error(`history declares a gap: ${JSON.stringify(page.gap)}`);
      events.push(...page.events);
      if (!page.has_more) return events;
      after = `&after=${page.cursor}`;
    }
  }

  /** Whatever else a test finds: no token and no key may stand in what the gateway said. */
  #lookForSecrets() {
    if (!this.token) return;
    const needles = [...this.token.split('.').slice(1), this.publish_key.split('_').at(-1)];
    const shown = this.log.split('\n').find((line) => needles.some((needle) => line.includes(needle)));
    if (!shown) return;
    console.error(`a secret stands in the gateway's log: ${shown}`);
    process.exitCode = 1;
  }

  #remove() {
    // Registered first, so that the process does not outlive the test.
    if (this.#child?.exitCode === null) this.#child.kill('SIGKILL');
    rmSync(this.dir, { recursive: true, force: true });
    this.#lookForSecrets();
  }
}

/** Waits until `look` gives something, looking again and again; `what` is awaited, for the error. */
export async function until(what, look, patience = 60_000, every = 20) {
  const deadline = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, every); });
  }
}
