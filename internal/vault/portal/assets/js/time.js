// Moments are shown in the reader's zone, with UTC on hover.
const day = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit' });
const fine = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 });
const today = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });

// span says a length of time as the server does: at most two units.
export function span(s) {
  if (!(s >= 0)) return '0 s';
  if (s < 9.95) return `${s.toFixed(1).replace(/\.0$/, '')} s`;
  if (s < 60) return `${Math.round(s)} s`;
  const units = s < 3600 ? [60, 'min', 1, 's'] : s < 86400 ? [3600, 'h', 60, 'min'] : [86400, 'd', 3600, 'h'];
  const rest = Math.floor((s % units[0]) / units[2]);
  return `${Math.floor(s / units[0])} ${units[1]}${rest ? ` ${rest} ${units[3]}` : ''}`;
}

// ago says how long ago a moment was, coarse enough not to change under the
// reader's eyes.
function ago(t) {
  const s = (Date.now() - t) / 1000;
  if (s < -1) return day.format(t);
  return s < 5 ? 'just now' : `${span(s < 60 ? Math.floor(s / 5) * 5 : s - (s % 60))} ago`;
}

export function localText(t, isFine) {
  if (isFine) return fine.format(t);
  const now = new Date();
  return t.toDateString() === now.toDateString() ? today.format(t) : day.format(t);
}

function show(el) {
  const t = new Date(el.dateTime);
  if (Number.isNaN(t.getTime())) return;
  const text = el.hasAttribute('data-ago') ? ago(t) : localText(t, el.hasAttribute('data-fine'));
  if (el.textContent !== text) el.textContent = text;
}

// localise rewrites every moment below root.
export function localise(root) {
  for (const el of root.querySelectorAll('time[datetime]')) show(el);
}

setInterval(() => {
  if (document.hidden) return;
  for (const el of document.querySelectorAll('time[data-ago]')) show(el);
}, 5000);
