"""The settings of who may connect, and by which names."""

import pytest

from sparsteer.app.browser import hosts
from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.hosts import Hosts
from sparsteer.sae.common.errors import InputError


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "lab.example", "::2"])
def test_other_machines_need_a_second_word(host: str) -> None:
    with pytest.raises(InputError, match="other machines can reach; add --expose"):
        ServeConfig(host=host)
    assert ServeConfig(host=host, expose=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServeConfig(host=host).host == host


@pytest.mark.parametrize("field", ["host", "allowed_host"])
@pytest.mark.parametrize(
    "name",
    ["", "*", "http://lab.example", "lab.example:80", "[::1]", "a b", "a/b", "a..b", "\u00e9"],
)
def test_a_host_is_a_name_alone(field: str, name: str) -> None:
    value = (name,) if field == "allowed_host" else name
    with pytest.raises(InputError, match="without http:// and port") as caught:
        ServeConfig(**{field: value, "expose": True})  # pyright: ignore[reportArgumentType] - either field
    assert caught.value.field == field


def test_alone_this_machine_is_called_by_its_own_names_and_those_allowed() -> None:
    allowed = Hosts.of(ServeConfig(allowed_host=("Lab.Example", "10.0.0.9")))
    for header in ("127.0.0.1:1", "localhost", "[::1]:1", "lab.example:443", "10.0.0.9"):
        assert allowed.allow(header)
    for header in ("10.0.0.8", "x.lab.example", "[::]", "0.0.0.0"):
        assert not allowed.allow(header)


def test_exposed_it_may_be_called_by_any_address_and_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address cannot be made to point here by who owns a name."""
    monkeypatch.setattr(hosts.socket, "gethostname", lambda: "Workstation")
    exposed = Hosts.of(ServeConfig(host="0.0.0.0", expose=True))
    for header in ("10.0.0.8:80", "[fe80::1]:80", "workstation:80", "localhost"):
        assert exposed.allow(header)
    for header in ("evil.example", "10.0.0.8.evil.example", "10.0.0.256"):
        assert not exposed.allow(header)
    assert not Hosts.of(ServeConfig(expose=True)).allow("10.0.0.8"), "it listens to itself alone"
