// The two panels between the figures and the events: a form to publish an event, and code that opens the
// stream on the screen. The page is served by `tidegate dev` alone, which hands over a publish key.

import { client, curlPublish, curlStream, eventSource, webSocket } from './snippets.js';

const $ = (id) => document.getElementById(id);
const CODE = { client, websocket: webSocket, eventsource: eventSource, curl: curlStream };
const SECRET_SHOWN = 12; // characters of a token or key; copies have all of it

/** The user of a token, if its claim has the usual name. Only to explain; the gateway alone verifies. */
export function userOf(token) {
  try {
    const claims = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const { sub } = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(claims), (char) => char.codePointAt(0))));
    return typeof sub === 'string' ? sub : null;
  } catch { return null; }
}

/** The names in a list that a person wrote. */
export const namesIn = (text) => [...new Set(text.split(/[\s,]+/).filter(Boolean))];

/**
 * The body of a publish. `data` stays as it was written, because parsing would change numbers beyond 2^53.
 * Throws a SyntaxError if it is not JSON.
 */
export function bodyOf({ service, event, data, users }) {
  const text = data.trim() || 'null';
  JSON.parse(text);
  const targets = namesIn(users);
  const rest = targets.length ? `,"users":${JSON.stringify(targets)}` : '';
  return `{"service":${JSON.stringify(service.trim())},"event":${JSON.stringify(event.trim())}${rest},"data":${text}}`;
}

/** What to expect after an event was stored: it may be one that this page does not show. */
export function outcome({ seq, duplicate }, { service, users, user, shown }) {
  const stored = duplicate ? `Stored before, as #${seq}.` : `Stored as #${seq}.`;
  const targets = namesIn(users);
  if (targets.length && user !== null && !targets.includes(user)) return `${stored} Only ${targets.join(', ')} can see it; this page is ${user}.`;
  if (shown.length && !shown.includes(service)) return `${stored} The filter of this page hides it.`;
  return stored;
}

const shorten = (text, ...secrets) =>
  secrets.reduce((shown, secret) => (secret ? shown.replaceAll(secret, `${secret.slice(0, SECRET_SHOWN)}…`) : shown), text);

/**
 * Sets the panels up. `page` has `session()` (org, token, services), `key()`, `keepKey(key)` and
 * `announce(text)`. Returns a function to call after the session changed.
 */
export function panels(page) {
  const form = $('publish-form');
  const codes = { 'publish-code': '', 'subscribe-code': '' };
  const fields = () => Object.fromEntries(new FormData(form));
  const key = () => page.key() || form.key.value.trim();

  function show(id, text, ...secrets) {
    codes[id] = text;
    $(id).textContent = shorten(text, ...secrets);
  }

  function drawPublish() {
    const session = page.session();
    if (!session) return;
    let body;
    try { body = bodyOf(fields()); } catch { body = bodyOf({ ...fields(), data: 'null' }).replace(/null}$/, `${form.data.value}}`); }
    show('publish-code', curlPublish({ origin: location.origin, org: session.org, key: key() || 'KEY', body }), key());
  }

  function drawSubscribe() {
    const session = page.session();
    if (!session) return;
    const { org, token, services } = session;
    const way = document.querySelector('#ways :checked').value;
    show('subscribe-code', CODE[way]({ origin: location.origin, org, token, services }), token);
    $('subscribe-for').textContent = services.length ? `from your code, only ${services.join(', ')}` : 'from your code';
  }

  function refresh() {
    const session = page.session();
    if (!session) return;
    const user = userOf(session.token);
    $('me').textContent = user === null ? '' : `this page is ${user}`;
    $('key-field').hidden = Boolean(page.key());
    drawPublish();
    drawSubscribe();
  }

  function said(text, bad = false) {
    const line = $('publish-said');
    line.textContent = text;
    line.classList.toggle('bad', bad);
  }

  form.addEventListener('input', () => { said(''); drawPublish(); });
  form.addEventListener('keydown', (press) => {
    if (press.key === 'Enter' && (press.ctrlKey || press.metaKey)) form.requestSubmit();
  });
  form.addEventListener('submit', async (press) => {
    press.preventDefault();
    const { org, token, services } = page.session();
    const given = fields();
    let body;
    try { body = bodyOf(given); } catch (error) {
      said(`Data is not JSON: ${error.message}`, true);
      form.data.focus();
      return;
    }
    try {
      const used = key();
      const answer = await fetch(`/v1/orgs/${encodeURIComponent(org)}/events`, {
        method: 'POST', headers: { authorization: `Bearer ${used}`, 'content-type': 'application/json' }, body,
      });
      const told = await answer.json();
      if (!answer.ok) {
        const why = told.errors?.[0] ? `${told.errors[0].pointer}: ${told.errors[0].detail}` : told.detail ?? told.title;
        if (answer.status === 401) { page.keepKey(null); refresh(); }
        said(`Refused (${told.code}): ${why}`, true);
        return;
      }
      page.keepKey(used);
      said(outcome(told.events[0], { service: given.service.trim(), users: given.users, user: userOf(token), shown: services }));
      refresh();
    } catch (error) {
      said(`No answer came: ${error.message}`, true);
    }
  });
  $('ways').addEventListener('change', drawSubscribe);
  for (const button of document.querySelectorAll('[data-copies]')) {
    button.addEventListener('click', async () => {
      const code = $(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(codes[button.dataset.copies]);
        page.announce('Copied, with the whole secret');
        button.textContent = 'Copied';
        setTimeout(() => { button.textContent = 'Copy'; }, 1500);
      } catch {
        // Without a clipboard (an address that is not secure), the text is selected, whole.
        code.textContent = codes[button.dataset.copies];
        getSelection().selectAllChildren(code);
      }
    });
  }
  return refresh;
}
