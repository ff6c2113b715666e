"""What a request that is refused gets: a small page for a person, JSON for a program."""

import json

from starlette.datastructures import Headers
from starlette.types import Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""The pages' content-security-policy: no inline script or style, nothing from elsewhere."""

PROTECTION = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer."""


class Refused(Exception):
    """A request that is not answered, with the status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


async def answer(scope: Scope, refused: Refused, send: Send) -> None:
    """Send the refusal."""
    sentence, accept = str(refused), Headers(scope=scope).get("accept", "")
    if "text/html" in accept and refused.status == 401:
        kind, body = "text/html; charset=utf-8", _ASKING.replace("SENTENCE", sentence)
    else:
        kind = "application/json"
        body = json.dumps({"error": {"message": sentence, "type": "refused", "code": None}})
    headers = {**PROTECTION, "Content-Type": kind, "Cache-Control": "no-store"}
    headers["Content-Length"] = str(len(body.encode()))
    if refused.status == 429:
        headers["Retry-After"] = "1"
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body.encode()})


# A link from another site comes without the cookie, which the same address followed from here has.
_ASKING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>sparsteer: token needed</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/static/browser.css"></head>
<body><main><h1>This page needs its token</h1><p>SENTENCE.</p>
<form method="get" action="/"><label>Token <input name="token" type="password" required></label>
<button>Open</button></form>
<p>If this browser has opened it before: <a href="">open it again</a>.</p></main></body></html>
"""
