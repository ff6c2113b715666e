"""Whether a request knows the token, and how it said so."""

import hmac
from collections.abc import Generator
from typing import Literal
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import Scope

Way = Literal["bearer", "query", "cookie"]
"""How a request gave the token: a program as `Authorization: Bearer`, a person by the address that
was printed, a browser by the cookie that it got for that."""

_MOST_FIELDS = 100


class Credentials:
    """The token of a server and the cookie that carries it."""

    def __init__(self, token: str, *, port: int) -> None:
        """Take the token, and the port for the cookie's name: cookies do not tell ports apart."""
        self._token = token.encode()
        self._name = f"sparsteer-token-{port}"

    @property
    def cookie(self) -> str:
        """The Set-Cookie header: no script reads it and no other site's request carries it."""
        return f"{self._name}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"

    def way(self, scope: Scope, headers: Headers) -> Way | None:
        """How a request gives the token; None if it does not, or a wrong one."""
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return "bearer"
        if any(map(self._is_token, _in_query(scope))):
            return "query"
        # Other servers of this machine set cookies, too, by the same name if they are malicious.
        if any(map(self._is_token, _cookies(headers, self._name))):
            return "cookie"
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token)


def _in_query(scope: Scope) -> list[str]:
    try:
        fields = parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        return []
    return [value for name, value in fields if name == "token"]


def _cookies(headers: Headers, name: str) -> Generator[str]:
    """The values of every cookie of that name. What http.cookies refuses in others is no matter."""
    for line in headers.getlist("cookie"):
        for cookie in line.split(";"):
            key, _, value = cookie.strip().partition("=")
            if key == name:
                yield value
