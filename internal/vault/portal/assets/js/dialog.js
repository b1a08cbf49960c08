// Links with data-dialog are shown in a dialog. Forms in it are sent from
// there: a redirect leaves the page, anything else is shown in the dialog.
import { localise } from './time.js';

let opener = null;

function box() {
  return document.getElementById('dialog');
}

// show puts a page's main part into the dialog; at is the page's address.
function show(html, at) {
  const page = new DOMParser().parseFromString(html, 'text/html');
  const main = page.getElementById('main');
  const body = document.getElementById('dialog-body');
  body.replaceChildren(...[...main.childNodes].map((n) => document.importNode(n, true)));
  for (const form of body.querySelectorAll('form:not([action])')) form.setAttribute('action', at);
  const title = body.querySelector('h1');
  if (title) title.id = 'dialog-title';
  localise(body);
  const dialog = box();
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  (body.querySelector('[role="alert"]') ? title : body.querySelector('[autofocus]'))?.focus();
  body.dispatchEvent(new CustomEvent('portal:shown', { bubbles: true }));
}

async function open(link) {
  opener = link;
  const answer = await fetch(link.href, { headers: { Accept: 'text/html' } });
  if (answer.redirected) location.assign(answer.url);
  else show(await answer.text(), answer.url);
}

async function send(form, button) {
  const data = new FormData(form, button ?? undefined);
  const dialog = box();
  dialog.setAttribute('aria-busy', 'true');
  if (button) button.disabled = true;
  try {
    const query = new URLSearchParams(data);
    const method = (button?.formMethod || form.method || 'get').toLowerCase();
    const action = button?.getAttribute('formaction') || form.getAttribute('action');
    const target = new URL(action || location.href, location.href);
    const get = method === 'get';
    if (get) target.search = query;
    const answer = await fetch(target, get ? {} : { method: 'POST', body: query });
    if (answer.redirected) location.assign(answer.url);
    else show(await answer.text(), answer.url);
  } catch {
    form.submit(); // the browser says what is wrong
  } finally {
    dialog.removeAttribute('aria-busy');
    if (button) button.disabled = false;
  }
}

export function dialogs() {
  const dialog = box();
  document.addEventListener('click', (e) => {
    const link = e.target.closest?.('a[data-dialog]');
    if (!link || e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey) return;
    e.preventDefault();
    open(link).catch(() => location.assign(link.href));
  });
  dialog.addEventListener('submit', (e) => {
    if (e.defaultPrevented) return;
    e.preventDefault();
    send(e.target, e.submitter);
  });
  dialog.addEventListener('click', (e) => {
    if (e.target === dialog || e.target.closest('.dialog-close, [data-close]')) {
      e.preventDefault();
      dialog.close();
    }
  });
  dialog.addEventListener('close', () => {
    document.getElementById('dialog-body').replaceChildren();
    if (opener?.isConnected) opener.focus();
    opener = null;
  });
}
