// Parts of the page that live: elements with data-live and an id. When a change
// of one of their types is told, the page is fetched again and they take over
// what is new. The page itself is never loaded again.
import { morph } from './morph.js';
import { localise } from './time.js';

const pause = 1000; // milliseconds between two fetches
const waiting = new Set();
let busy = false;
let timer = 0;

function parts() {
  return [...document.querySelectorAll('[data-live][id]')];
}

function concerned() {
  const all = waiting.has('reset');
  return parts().filter((el) => all || el.dataset.live.split(' ').some((t) => waiting.has(t)));
}

// refresh fetches the page as it is now and hands the parts what is new.
export async function refresh(wanted = parts()) {
  if (wanted.length === 0) return;
  const ids = wanted.map((el) => el.id);
  const answer = await fetch(location.href, { headers: { Accept: 'text/html' }, credentials: 'same-origin' });
  if (answer.redirected && new URL(answer.url).pathname === '/sign-in') {
    ended();
    return;
  }
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  for (const id of ids) {
    const now = document.getElementById(id);
    const then = page.getElementById(id);
    if (!now || !then) continue;
    localise(then);
    morph(now, then);
    document.getElementById(id)?.dispatchEvent(new CustomEvent('portal:refreshed', { bubbles: true }));
  }
}

async function work() {
  timer = 0;
  if (busy || document.hidden) return;
  const wanted = concerned();
  waiting.clear();
  if (wanted.length === 0) return;
  busy = true;
  try {
    await refresh(wanted);
  } catch {
    waiting.add('reset'); // the vault is away; the stream will tell
  } finally {
    busy = false;
    if (waiting.size) plan();
  }
}

function plan() {
  timer ||= setTimeout(work, pause);
}

function state(on, text) {
  const el = document.getElementById('live-state');
  if (!el) return;
  el.hidden = false;
  el.dataset.on = on;
  el.lastElementChild.textContent = text;
}

function ended() {
  state('false', 'Signed out');
  location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
}

export function listen() {
  const from = document.body.dataset.liveFrom;
  if (!from) return;
  const source = new EventSource(from);
  source.addEventListener('ready', () => {
    state('true', 'Live');
    // What changed between the making of the page, or the loss of the
    // stream, and now was told to nobody.
    waiting.add('reset');
    plan();
  });
  source.addEventListener('change', (e) => {
    const { types } = JSON.parse(e.data);
    for (const t of types) waiting.add(t);
    document.dispatchEvent(new CustomEvent('portal:change', { detail: { types } }));
    plan();
  });
  source.addEventListener('end', () => {
    source.close();
    ended();
  });
  source.addEventListener('error', () => {
    state('false', 'No connection to the vault');
  });
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && waiting.size) plan();
  });
  window.addEventListener('pagehide', () => source.close());
}
