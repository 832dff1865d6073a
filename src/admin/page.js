// Asks for the page again and again and takes over what differs, so that whatever is open, focused or
// scrolled stays as it is.
'use strict';
const PAUSE_MS = 1000, PATIENCE_MS = 10000, STALE_MS = 5000;
const [state, ago] = document.querySelectorAll('#live span');
let seen = Date.now(), awake = seen, held = false;

function take(ours, theirs) {
  if (ours.nodeName !== theirs.nodeName) return ours.replaceWith(theirs);
  if (ours.nodeType === Node.TEXT_NODE) {
    if (ours.data !== theirs.data) ours.data = theirs.data;
    return;
  }
  for (const { name, value } of theirs.attributes)
    if (ours.getAttribute(name) !== value) ours.setAttribute(name, value);
  for (const { name } of [...ours.attributes])
    if (name !== 'open' && !theirs.hasAttribute(name)) ours.removeAttribute(name);
  const was = [...ours.childNodes], is = [...theirs.childNodes];
  is.forEach((node, at) => (was[at] ? take(was[at], node) : ours.append(node)));
  was.slice(is.length).forEach((node) => node.remove());
}

async function ask() {
  const answer = await fetch('', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE_MS) });
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  const main = answer.ok && page.querySelector('main');
  if (!main) throw answer.status;
  seen = Date.now();
  held = !getSelection().isCollapsed; // somebody is about to copy it
  if (held) return;
  take(document.querySelector('main'), main);
  document.title = page.title;
}

function tell() {
  if (document.hidden) return;
  const stale = Date.now() - Math.max(seen, awake) >= STALE_MS; // nobody was asked while it was hidden
  const late = Math.round((Date.now() - seen) / 1000);
  const now = stale ? 'no answer' : held ? 'held while text is selected' : 'live';
  if (state.textContent !== now) state.textContent = now; // said aloud, so only when it changes
  ago.textContent = stale ? `, last seen ${late < 120 ? `${late} s` : `${Math.floor(late / 60)} min`} ago` : '';
  document.body.classList.toggle('stale', stale);
}

const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const turn = () => new Promise((done) => document.addEventListener('visibilitychange', done, { once: true }));

async function follow() { // one after the other: no two questions are under way at once
  for (;;) {
    await wait(PAUSE_MS);
    while (document.hidden) {
      await turn();
      awake = Date.now();
    }
    await ask().catch(() => {});
    tell();
  }
}
tell();
setInterval(tell, 1000);
follow();
