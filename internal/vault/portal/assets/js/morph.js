// morph makes one element like another and keeps what is the same: focus,
// selection, scroll positions, what was typed, ticked or folded out stay.

// Attributes that belong to the reader, not to the server.
function kept(el, name) {
  if (name === 'open' && (el.localName === 'details' || el.localName === 'dialog')) return true;
  if ((name === 'value' || name === 'checked') && ['input', 'textarea', 'option', 'select'].includes(el.localName)) return el.type !== 'hidden';
  return name === 'data-kept' || name === 'aria-expanded' || (el.dataset.kept || '').split(' ').includes(name);
}

function attributes(from, to) {
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !kept(from, name)) from.removeAttribute(name);
  }
  for (const { name, value } of [...to.attributes]) {
    if (from.getAttribute(name) !== value && !kept(from, name)) from.setAttribute(name, value);
  }
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || '') === (b.id || '');
}

function children(from, to) {
  const byId = new Map();
  for (const c of from.children) if (c.id) byId.set(c.id, c);
  let at = from.firstChild;
  for (const want of [...to.childNodes]) {
    let have = want.id && byId.get(want.id);
    if (!have && at && alike(at, want)) have = at;
    if (!have) {
      from.insertBefore(document.importNode(want, true), at);
      continue;
    }
    if (have === at) at = at.nextSibling;
    else from.insertBefore(have, at);
    morph(have, want);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

export function morph(from, to) {
  if (!alike(from, to)) {
    from.replaceWith(document.importNode(to, true));
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  if (from.hasAttribute('data-own')) return; // script draws it
  if (from.localName === 'time' && from.dateTime === to.dateTime) return;
  attributes(from, to);
  children(from, to);
}
