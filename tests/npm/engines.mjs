// Chromium, Firefox and WebKit of Debian behind the same few functions, so that a test runs in each of them. No
// browser is downloaded and no program of a browser's maker is needed beside it:
//
//   chromium  package chromium, over its DevTools protocol by playwright-core
//   firefox   package firefox-esr, over WebDriver BiDi, which it speaks itself
//   webkit    packages webkit2gtk-driver and xvfb: WebKitGTK's MiniBrowser over W3C WebDriver, in a display
//             without a screen
//
//   const engine = await launch('firefox');
//   const page = await engine.open('http://localhost:1234/');
//   await page.evaluate((name) => document.querySelector(name).textContent, 'h1');
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { chromium } from 'playwright-core';
import WS from 'ws';

import { executable } from './browser.mjs';
import { freePort } from './gateway.mjs';

const START_MS = 60_000; // until an engine says where it listens

/** The names, with what each can do besides the functions of all. */
export const ENGINES = {
  chromium: { freezes: true, longTasks: true },
  firefox: { freezes: false, longTasks: false },
  webkit: { freezes: false, longTasks: false },
};

export const launch = (name) => ({ chromium: launchChromium, firefox: launchFirefox, webkit: launchWebKit })[name]();

/** The text of a call in a page: a promise of the answer as JSON. */
const call = (what, values) => {
  const answer = typeof what === 'function' ? `(${what})(...${JSON.stringify(values)})` : what;
  return `(async () => JSON.stringify([await (${answer})]))()`;
};
const answered = (text) => JSON.parse(text)[0] ?? undefined;

/** Runs a program, and kills it with this process. */
function run(program, words, options = {}) {
  const child = spawn(program, words, { stdio: ['ignore', 'ignore', 'pipe'], ...options });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const gone = new Promise((resolve) => { child.once('exit', resolve); child.once('error', resolve); });
  return { child, end: async () => { kill(); await gone; process.removeListener('exit', kill); } };
}

/** Waits until a program says something on a stream; what else it says there is not kept. */
function heard(child, stream, pattern) {
  return new Promise((resolve, reject) => {
    let words = '';
    const late = setTimeout(() => reject(new Error(`${child.spawnfile} did not say ${pattern}: ${words}`)), START_MS);
    stream.on('data', (chunk) => {
      words = (words + chunk).slice(-4000);
      const found = pattern.exec(words);
      if (found) { clearTimeout(late); resolve(found[1]); }
    });
    child.once('error', (error) => { clearTimeout(late); reject(error); });
    child.once('exit', (status) => { clearTimeout(late); reject(new Error(`${child.spawnfile} ended (${status}): ${words}`)); });
  });
}

/** A directory that goes with this process. */
function directory(name) {
  const path = mkdtempSync(join(tmpdir(), `tidegate-${name}-`));
  process.once('exit', () => rmSync(path, { recursive: true, force: true, maxRetries: 5 }));
  return path;
}

/** A page that is awake and in front when it is opened. */
class Page {
  constructor(engine) { this.engine = engine; }
  /** A function of the page with its arguments, or an expression; awaits what it gives, if that can be JSON. */
  async evaluate(what, ...values) { return answered(await this.run(call(what, values))); }
}

// Chromium. It is started here and not by playwright-core, because playwright makes each page of a browser
// that it starts believe that it is visible and has the focus.

async function launchChromium() {
  const program = run(executable(), [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--window-size=1280,1000', '--remote-debugging-port=0',
    `--user-data-dir=${directory('chromium')}`, 'about:blank',
  ]);
  const address = await heard(program.child, program.child.stderr, /DevTools listening on (ws:\S+)/);
  const browser = await chromium.connectOverCDP(address, { noDefaults: true });
  const context = browser.contexts()[0];
  const [blank] = context.pages(); // what is in front when another page is to be hidden

  class ChromiumPage extends Page {
    constructor(tab, devtools) { super(engine); Object.assign(this, { tab, devtools }); }
    run(expression) { return this.tab.evaluate(expression); }
    hide() { return blank.bringToFront(); }
    show() { return this.tab.bringToFront(); }
    /** Its timers and tasks stop, as the browser does it with a page that has been hidden for long. */
    freeze() { return this.devtools.send('Page.setWebLifecycleState', { state: 'frozen' }); }
    async thaw() {
      await this.devtools.send('Page.setWebLifecycleState', { state: 'active' });
      await this.show();
    }
    goto(url) { return this.tab.goto(url); }
    close() { return this.tab.close(); }
    async screenshot(path) {
      await this.show(); // a hidden page is not drawn
      await this.tab.screenshot({ path });
    }
  }

  const engine = {
    name: 'chromium',
    version: browser.version(),
    ...ENGINES.chromium,
    async open(url) {
      const tab = await context.newPage();
      const page = new ChromiumPage(tab, await context.newCDPSession(tab));
      await page.goto(url);
      await page.show();
      return page;
    },
    async close() {
      await browser.close();
      await program.end();
    },
  };
  return engine;
}

// Firefox.

// Nothing outside of this machine, nothing that asks a person.
const FIREFOX = {
  'app.normandy.enabled': false,
  'app.update.disabledForTesting': true,
  'browser.aboutwelcome.enabled': false,
  'browser.newtabpage.enabled': false,
  'browser.region.network.url': '',
  'browser.safebrowsing.blockedURIs.enabled': false,
  'browser.safebrowsing.downloads.enabled': false,
  'browser.safebrowsing.malware.enabled': false,
  'browser.safebrowsing.phishing.enabled': false,
  'browser.shell.checkDefaultBrowser': false,
  'browser.startup.page': 0,
  'datareporting.policy.dataSubmissionEnabled': false,
  'extensions.update.enabled': false,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
  'services.settings.server': 'data:,',
  'toolkit.telemetry.server': 'data:,',
};

async function launchFirefox() {
  const profile = directory('firefox');
  writeFileSync(join(profile, 'user.js'),
    Object.entries(FIREFOX).map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`).join(''));
  const program = run(process.env.FIREFOX ?? 'firefox-esr', [
    '--headless', '--no-remote', '--profile', profile, '--remote-debugging-port', '0', 'about:blank',
  ], { env: { ...process.env, HOME: profile, MOZ_HEADLESS_WIDTH: '1280', MOZ_HEADLESS_HEIGHT: '1000' } });
  const address = await heard(program.child, program.child.stderr, /WebDriver BiDi listening on (ws:\S+)/);
  const socket = new WS(`${address}/session`);
  await new Promise((resolve, reject) => { socket.once('open', resolve); socket.once('error', reject); });

  let last = 0;
  const waiting = new Map();
  socket.on('message', (text) => {
    const answer = JSON.parse(text);
    waiting.get(answer.id)?.(answer);
    waiting.delete(answer.id);
  });
  socket.on('close', () => { for (const tell of waiting.values()) tell({ type: 'error', error: 'gone', message: 'Firefox has closed its connection' }); });
  const send = async (method, params = {}) => {
    const id = last += 1;
    const answer = await new Promise((resolve) => { waiting.set(id, resolve); socket.send(JSON.stringify({ id, method, params })); });
    if (answer.type === 'error') throw new Error(`${method}: ${answer.error}: ${answer.message}`);
    return answer.result;
  };

  const { capabilities } = await send('session.new', { capabilities: {} });
  const { contexts: [{ context: blank }] } = await send('browsingContext.getTree');

  class FirefoxPage extends Page {
    constructor(context) { super(engine); this.context = context; }
    async run(expression) {
      const answer = await send('script.evaluate', { expression, target: { context: this.context }, awaitPromise: true });
      if (answer.type === 'exception') throw new Error(answer.exceptionDetails.text);
      return answer.result.value;
    }
    hide() { return send('browsingContext.activate', { context: blank }); }
    show() { return send('browsingContext.activate', { context: this.context }); }
    goto(url) { return send('browsingContext.navigate', { context: this.context, url, wait: 'complete' }); }
    close() { return send('browsingContext.close', { context: this.context }); }
    async screenshot(path) {
      const { data } = await send('browsingContext.captureScreenshot', { context: this.context });
      writeFileSync(path, Buffer.from(data, 'base64'));
    }
  }

  const engine = {
    name: 'firefox',
    version: capabilities.browserVersion,
    ...ENGINES.firefox,
    async open(url) {
      const { context } = await send('browsingContext.create', { type: 'tab' });
      const page = new FirefoxPage(context);
      await page.goto(url);
      await page.show();
      return page;
    },
    async close() {
      await send('browser.close').catch(() => {});
      socket.close();
      await program.end();
    },
  };
  return engine;
}

// WebKit. WebDriver speaks to one window at a time, so that calls wait for each other.

const LIBRARIES = '/usr/lib';

function miniBrowser() {
  const found = readdirSync(LIBRARIES).flatMap((triple) => ['4.1', '6.0', '4.0'].map((version) => join(LIBRARIES, triple, `webkit2gtk-${version}`, 'MiniBrowser')));
  const binary = process.env.MINIBROWSER ?? found.find((path) => existsSync(path));
  if (!binary) throw new Error('no MiniBrowser of WebKitGTK was found; install the package webkit2gtk-driver');
  return binary;
}

async function launchWebKit() {
  const display = run('Xvfb', ['-displayfd', '3', '-screen', '0', '1280x1000x24', '-nolisten', 'tcp', '-noreset'], { stdio: ['ignore', 'ignore', 'pipe', 'pipe'] });
  const number = await heard(display.child, display.child.stdio[3], /^(\d+)\n/);
  const home = directory('webkit');
  const port = freePort();
  const driver = run('WebKitWebDriver', [`--port=${port}`], {
    detached: true, // a process group of its own, for the browser that it starts
    stdio: ['ignore', 'ignore', 'ignore'],
    env: { ...process.env, DISPLAY: `:${number}`, GDK_BACKEND: 'x11', HOME: home, XDG_RUNTIME_DIR: home, XDG_CACHE_HOME: home, XDG_DATA_HOME: home },
  });
  const endGroup = () => { try { process.kill(-driver.child.pid, 'SIGKILL'); } catch { /* it has ended */ } };
  process.once('exit', endGroup);

  const send = async (method, path, body) => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method, body: body && JSON.stringify(body) });
    const { value } = await answer.json();
    if (value?.error) throw new Error(`${path}: ${value.error}: ${value.message}`);
    return value;
  };
  for (const deadline = Date.now() + START_MS; ;) {
    try {
      await send('GET', '/status');
      break;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => { setTimeout(resolve, 20); });
    }
  }
  const { sessionId, capabilities } = await send('POST', '/session', { capabilities: { alwaysMatch: {
    'webkitgtk:browserOptions': { binary: miniBrowser(), args: ['--automation'] },
    timeouts: { script: 600_000 },
  } } });
  const command = (method, path, body) => send(method, `/session/${sessionId}${path}`, body);
  const blank = await command('GET', '/window');
  let turn = Promise.resolve();
  const within = (handle, act) => {
    const done = turn.then(async () => {
      await command('POST', '/window', { handle });
      return act();
    });
    turn = done.catch(() => {});
    return done;
  };

  class WebKitPage extends Page {
    constructor(handle) { super(engine); this.handle = handle; }
    #within(act) { return within(this.handle, act); }
    async run(expression) {
      const [answer, fault] = await this.#within(() => command('POST', '/execute/async', {
        script: `const done = arguments[0]; (${expression}).then((text) => done([text]), (fault) => done([null, String(fault)]));`, args: [],
      }));
      if (fault) throw new Error(fault);
      return answer;
    }
    hide() { return this.#within(() => command('POST', '/window/minimize', {})); }
    show() { return this.#within(() => command('POST', '/window/maximize', {})); }
    goto(url) { return this.#within(() => command('POST', '/url', { url })); }
    close() { return this.#within(() => command('DELETE', '/window')); }
    async screenshot(path) { writeFileSync(path, Buffer.from(await this.#within(() => command('GET', '/screenshot')), 'base64')); }
  }

  const engine = {
    name: 'webkit',
    version: capabilities.browserVersion,
    ...ENGINES.webkit,
    async open(url) {
      const { handle } = await within(blank, () => command('POST', '/window/new', { type: 'window' }));
      const page = new WebKitPage(handle);
      await page.goto(url);
      await page.show();
      return page;
    },
    async close() {
      await send('DELETE', `/session/${sessionId}`).catch(() => {});
      await driver.end();
      endGroup();
      process.removeListener('exit', endGroup);
      await display.end();
    },
  };
  return engine;
}
