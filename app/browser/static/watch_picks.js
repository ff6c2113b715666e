// Hear of changes of the picks, whoever makes them: this tab, another one, or a command.

import { api } from "./common.js";

const MILLISECONDS = 2500;

// Call the function with the picks now and after every change, as GET /api/picks gives them.
export function watchPicks(changed) {
  let revision = "";
  async function ask() {
    try {
      if (!document.hidden) {
        const answer = await api(`/api/picks?since=${encodeURIComponent(revision)}`);
        revision = answer.revision;
        if (answer.changed) changed(answer);
      }
    } catch { /* the line at the top says so where the server is gone */ }
    setTimeout(ask, MILLISECONDS);
  }
  ask();
}
