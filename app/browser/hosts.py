"""By which names and addresses this server may be called.

The name of an attacker's page can be made to point to this machine (DNS rebinding), and then his
page shares the server's origin. His requests still carry that name in their Host header.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable

from .config import LOOPBACK, ServeConfig, is_address, is_loopback

_HEADER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)


class Hosts:
    """The names that a request may give as its host, with any port."""

    def __init__(self, names: Iterable[str], *, any_address: bool = False) -> None:
        """Take names and addresses without port.

        Args:
            names: such as localhost, 127.0.0.1, ::1.
            any_address: allow every address that is written in numbers, too: such a one cannot be
                made to point elsewhere, and a machine may not know all of its own.
        """
        self._names = {_plain(name) for name in names}
        self._any_address = any_address

    @classmethod
    def of(cls, config: ServeConfig) -> "Hosts":
        """This machine's own; where others may connect, its name and any address, too."""
        names = {*LOOPBACK, config.host, *config.allowed_host}
        if is_loopback(config.host):
            return cls(names)
        return cls({*names, socket.gethostname()}, any_address=True)

    def allow(self, header: str) -> bool:
        """Whether what a Host header gives is one of the names."""
        found = _HEADER.fullmatch(header)
        if found is None:
            return False
        name = _plain(found[1])
        return name in self._names or (self._any_address and is_address(name))


def _plain(name: str) -> str:
    """The name in lower case, an address in its shortest form."""
    name = name.strip("[]").lower()
    return str(ipaddress.ip_address(name)) if is_address(name) else name
