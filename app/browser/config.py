"""Settings of the browser, checked when they are made; nothing here imports torch."""

import ipaddress
import re
from dataclasses import dataclass

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_integer,
    require_positive_integer,
    require_text,
    require_tuple,
)
from ...sae.config import ModelDtype, require_model_dtype
from ...steering.interventions.named import named_paths

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""

DEFAULT_PORT = 8322

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in LOOPBACK or (is_address(host) and ipaddress.ip_address(host).is_loopback)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Open the feature browser, the playground and the OpenAI-compatible endpoint of a run."""

    run: FilePath | None = None
    """Folder of the run, or any autoencoder that the other verbs take; by default the newest run
    here that has a feature index."""

    port: int | None = None
    """Port to listen on; 0 takes any that is free. By default 8322, or any where that is taken."""

    host: str = "127.0.0.1"
    """Address to listen on. Another than this machine's own needs --expose, too."""

    expose: bool = False
    """Let other machines connect: everyone who has the token can read the run's texts and keep this
    machine busy, and nothing encrypts what is sent. `ssh -L` is the safer way."""

    allowed_host: tuple[str, ...] = ()
    """Another name by which this server may be called, such as that of a proxy; may be given
    several times."""

    scores: tuple[FilePath, ...] = ()
    """File of scored rows for the selection page; may be given several times. Those beside the run
    and in its folder are found."""

    interventions: tuple[str, ...] = ()
    """NAME=PATH: a saved intervention, such as the folder of `steer fit`, that programs may steer
    with by this name; may be given several times. Requests can name no path."""

    slots: int = 16
    """Texts generated at once, in one forward pass."""

    queue: int = 64
    """Requests that may wait for a slot; more are answered with status 429."""

    token_limit: int = 1024
    """Tokens that one request may ask for."""

    prompt_limit: int = 2048
    """Tokens that the prompt of one request may have: attention over a long one takes memory that
    grows with its square."""

    model: str | None = None
    """Language model; by default the one that the autoencoder was trained on."""

    site: str | None = None
    """Site in it; by default the one that the autoencoder was trained on."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the activations were read
    that the autoencoder was trained on."""

    allow_other_weights: bool = False
    """Take a language model though the model's weights are not those that the autoencoder
    was trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        require_model_dtype(self.model_dtype)
        if self.port is not None:
            require_integer("port", self.port, least=0)
            if self.port > 65535:
                raise InputError(f"port is {self.port}; give one from 0 to 65535", field="port")
        for name in ("slots", "queue", "token_limit", "prompt_limit"):
            require_positive_integer(name, getattr(self, name))
        require_tuple("allowed_host", self.allowed_host)
        named_paths(self.interventions, "interventions")
        _require_host("host", self.host)
        for name in self.allowed_host:
            _require_host("allowed_host", name)
        if not is_loopback(self.host) and not self.expose:
            raise InputError(
                f"host is {self.host}, which other machines can reach; add --expose to allow that, "
                "or leave --host out and connect with `ssh -L`",
                field="host",
            )


def _require_host(field: str, name: object) -> None:
    require_text(field, name)
    assert isinstance(name, str)
    if not (_NAME.fullmatch(name) or is_address(name)):
        raise InputError(
            f"{field} is {name!r}; give a name or an address alone, such as lab.example or "
            "127.0.0.1, without http:// and port",
            field=field,
        )


def is_address(name: str) -> bool:
    """Whether it is an IP address in numbers, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
