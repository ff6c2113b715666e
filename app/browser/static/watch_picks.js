// Hear of changes of the picks, whoever makes them: this tab, another one, or a command.

import { api } from "./common.js";

const MILLISECONDS = 2500;
const listeners = [];
let revision = "";

async function ask() {
  try {
    if (!document.hidden) {
      const sent = performance.now();
      const answer = await api(`/api/picks?since=${encodeURIComponent(revision)}`);
      if (answer.changed) {
        const taken = listeners.map((changed) => changed(answer, sent));
        if (!taken.includes(false)) revision = answer.revision;
      }
    }
  } catch { /* the line at the top says so where the server is gone */ }
  setTimeout(ask, MILLISECONDS);
}

// Call the function with the picks soon and after every change, as GET /api/picks gives them, and
// with when they were asked for; where it gives false, it is told again at the next turn.
export function watchPicks(changed) {
  listeners.push(changed);
  revision = "";
  if (listeners.length === 1) queueMicrotask(ask);
}
