"""The verb `serve`."""

from importlib.util import find_spec
from socket import gethostname

from ..app.browser.config import ServeConfig, is_loopback
from ..sae.common.errors import InputError
from .console import Report, Terminal

_NEEDED = ("fastapi", "uvicorn", "jinja2", "prometheus_client")


def run(config: ServeConfig, terminal: Terminal) -> Report:
    """Open the feature browser, the playground and the OpenAI-compatible endpoint of a run.

    RUN is the folder of a run with a feature index; by default the newest one here. The address is
    printed with its token, which is also the endpoint's api_key. Ctrl-C ends the server.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"serve needs {', '.join(missing)}; install with `pip install 'sparsteer[browser]'`"
        )
    from ..app.browser.server import start

    running = start(config, say=terminal.say)
    return Report(
        values={"url": running.url, "token": running.token},
        shown=(
            f"{running.url}/?token={running.token}",
            _from_elsewhere(config, running.url, running.token),
            f"OpenAI clients: base_url {running.url}/v1, api_key {running.token}",
            "Ctrl-C ends it",
        ),
        then=running.wait,
    )


def _from_elsewhere(config: ServeConfig, url: str, token: str) -> str:
    """How another machine gets here: by its own address, or through ssh."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    if is_loopback(config.host):
        return (
            f"from another machine: ssh -L {port}:{host}:{port} THIS_MACHINE, then "
            f"http://127.0.0.1:{port}/?token={token}"
        )
    name = gethostname()
    return f"from another machine, unencrypted: http://{name}:{port}/?token={token}"
