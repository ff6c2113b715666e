// Server-sent events of an answer to a POST, as an async generator of their JSON.

// Yields each event's values until [DONE]; throws an Error with the server's sentence where it
// refuses, fails in between, or ends early. Aborting the signal ends it with an AbortError.
export async function* events(path, body, { signal } = {}) {
  const answer = await fetch(path, {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) {
    const values = await answer.json().catch(() => ({}));
    throw new Error(values.error?.message ?? `the server answered ${answer.status}`);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the server stopped in the middle; it may have ended");
      waiting += value.replaceAll("\r", "");
      const blocks = waiting.split("\n\n");
      waiting = blocks.pop();
      for (const block of blocks) {
        const data = dataOf(block);
        if (data === "[DONE]") return;
        if (data === "") continue; // a comment that keeps the connection open
        const values = JSON.parse(data);
        if (values.error) throw new Error(values.error.message);
        yield values;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function dataOf(block) {
  const lines = block.split("\n").filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}
