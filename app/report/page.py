"""The page around the report: head and style; light, dark, narrow and printed."""

from collections.abc import Iterable

from .markup import Html, join, tag

GENERATOR = "sparsteer"
"""What made a page or a plot, as the file says; only such a one is replaced unasked."""

_STYLE = """
:root {
  color-scheme: light dark;
  --back: #ffffff; --text: #1b1f24; --soft: #57606a; --line: #d5dae0; --card: #f5f7f9;
  --first: #0a62c4; --second: #c2490a; --neutral: #8a939d; --edge: #d9a400;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --back: #14171b; --text: #e4e7ea; --soft: #a3acb6; --line: #343b43; --card: #1d2228;
    --first: #6cb2ff; --second: #ff9a57; --neutral: #7d8791; --edge: #d9a400;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); overflow-wrap: break-word; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
a { color: var(--first); }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
p, ul { max-width: 46rem; margin: 0.5rem 0; }
ul { padding-left: 1.2rem; }
li { margin: 0.3rem 0; }
code, .formula { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 0.92em; }
.formula { padding: 0.6rem 0.8rem; background: var(--card); width: fit-content; max-width: 100%; }
.notice { background: var(--card); border-left: 4px solid var(--edge); padding: 0.2rem 1rem 0.6rem;
  margin: 1.4rem 0; }
.notice h2 { margin-top: 0.8rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.45rem 1rem 0.45rem 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; font-size: 0.85rem; }
tbody th { font-weight: 600; white-space: nowrap; }
.numbers td:nth-child(2), .numbers th:nth-child(2) { color: var(--first); }
.numbers td:nth-child(3), .numbers th:nth-child(3) { color: var(--second); }
.numbers td:nth-child(2), .numbers td:nth-child(3) { white-space: nowrap; font-weight: 600; }
.numbers td:last-child { color: var(--soft); font-size: 0.9rem; }
.plain { display: block; overflow-x: auto; width: fit-content; max-width: 100%; }
.plain td, .plain th { padding-right: 1.6rem; }
.plain small { color: var(--soft); font-weight: 400; white-space: normal; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
details table { margin: 0.8rem 0 1.4rem; }
.facts, .times { font-size: 0.88rem; }
.facts td { overflow-wrap: anywhere; }
.times { width: auto; }
.figures { display: grid; gap: 1.2rem; margin-top: 0.8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); }
figure { margin: 0; max-width: 34rem; }
figcaption { color: var(--soft); font-size: 0.88rem; margin-top: 0.3rem; max-width: 30rem; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
footer { border-top: 1px solid var(--line); margin-top: 2.5rem; }
@media (max-width: 40rem) {
  .numbers thead th:last-child { display: none; }
  .numbers tr { display: grid; grid-template-columns: 1.3fr 1fr 1fr; align-items: baseline;
    border-bottom: 1px solid var(--line); padding: 0.4rem 0; }
  .numbers th, .numbers td { border: 0; padding: 0.1rem 0.4rem 0.1rem 0; white-space: normal; }
  .numbers td:nth-child(2), .numbers td:nth-child(3) { font-size: 0.9rem; white-space: normal; }
  .numbers td:last-child { grid-column: 1 / -1; }
  .plain tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
  .plain td, .plain th { padding-right: 1rem; }
  .facts tr { display: block; padding: 0.3rem 0; border-bottom: 1px solid var(--line); }
  .facts th, .facts td { display: block; border: 0; padding: 0; }
  .facts thead { display: none; }
}
@media print {
  :root { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  figure, tr, li, .notice { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; }
}
"""


def page(title: str, sections: Iterable[Html]) -> str:
    """The text of a whole HTML file; it loads nothing from anywhere, and forbids it."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="generator", content=GENERATOR),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    body = tag("body", tag("main", join(*sections)))
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def figure(drawing: Html, caption: str) -> Html:
    """A plot with what to see in it."""
    return tag("figure", drawing, tag("figcaption", caption))
