"""The server: an app of all pages behind the guard, on a port of this machine."""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from ...sae.common.devices import resolve_device
from ...sae.common.errors import InputError, NotFound
from ...sae.common.text import error_sentence
from .config import DEFAULT_PORT, ServeConfig
from .connections import PatientProtocol
from .endpoint import metrics, routes
from .hosts import Hosts
from .pages import (
    feature,
    overview,
    picks,
    playground,
    results,
    search,
    selection,
    status,
    sweep,
    triage,
    try_text,
)
from .rendering import STATIC, page, session_of
from .security import Guard
from .session import ModelUnavailable, Session

ROUTERS = (
    status.router,
    overview.router,
    feature.router,
    try_text.router,
    picks.router,
    search.router,
    triage.router,
    playground.router,
    sweep.router,
    results.router,
    selection.router,
    routes.router,
    metrics.router,
)

_SMALLEST_ZIPPED = 1000
_SECONDS_TO_END = 1
_SECONDS_TO_KEEP = 30
_CANNOT_WRITE = {
    errno.ENOSPC: (507, "make room on its disk"),
    errno.EDQUOT: (507, "make room in your quota"),
    errno.EROFS: (403, "mount it for writing, or copy the run elsewhere"),
    errno.EACCES: (403, "change its permissions"),
}
"""Status and remedy of errors of the file system that a person can mend."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def create_app(session: Session, *, port: int) -> Guard:
    """The app that answers with what the session has open, behind its guard.

    Args:
        session: the opened run.
        port: where it will listen.
    """
    app = FastAPI(
        title="sparsteer",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[Middleware(GZipMiddleware, minimum_size=_SMALLEST_ZIPPED)],
    )
    app.state.session = session
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(InputError, _wrong_input)
    app.add_exception_handler(RequestValidationError, _wrong_input)
    app.add_exception_handler(HTTPException, _wrong_input)
    app.add_exception_handler(RecursionError, _nested)
    app.add_exception_handler(Exception, _failed)
    return Guard(app, token=session.token, hosts=Hosts.of(session.config), port=port)


@dataclass
class Running:
    """A server that answers, in a thread of this process."""

    url: str
    token: str
    _server: uvicorn.Server
    _ended: threading.Event

    def wait(self) -> None:
        """Until the server ends, or Ctrl-C or a signal asks for it."""
        with contextlib.suppress(KeyboardInterrupt):
            while not self._ended.wait(timeout=1):  # a signal is not seen while it waits for ever
                pass
        self.stop()

    def stop(self) -> None:
        """End it; what is being sent has a second to finish."""
        self._server.should_exit = True
        if not self._ended.wait(timeout=_SECONDS_TO_END + 1):
            self._server.force_exit = True
            self._ended.wait(timeout=_SECONDS_TO_END)


def start(config: ServeConfig, *, say: Callable[[str], None] = lambda sentence: None) -> Running:
    """Open the run and serve it; returns once the server answers.

    The language model is read meanwhile, and pages that need it wait.

    Raises:
        InputError: there is nothing to open, or the port cannot be listened on.
    """
    resolve_device(config.device)  # else it would be found out long after
    session = Session(config, say)
    listening = _socket(config)
    port = listening.getsockname()[1]
    app = create_app(session, port=port)
    settings = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,  # the process's own stays; what matters is logged by the guard
        log_level="critical",
        access_log=False,  # addresses have the token
        proxy_headers=False,
        server_header=False,
        # Clients keep connections for 5 s: one that is closed just then would lose a request.
        timeout_keep_alive=_SECONDS_TO_KEEP,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    server = uvicorn.Server(settings)
    ended = threading.Event()

    def run() -> None:
        try:
            server.run(sockets=[listening])
        finally:
            ended.set()

    threading.Thread(target=run, name="serve", daemon=True).start()
    while not server.started:
        if ended.wait(timeout=0.02):
            raise RuntimeError("the server ended while it started")
    session.start_loading()
    host = _ANY_ADDRESS.get(config.host, config.host)
    shown = f"[{host}]" if ":" in host else host
    return Running(f"http://{shown}:{port}", session.token, server, ended)


def _socket(config: ServeConfig) -> socket.socket:
    """A socket that listens; of the default port's, or any if that is taken and none was named."""
    wanted = [DEFAULT_PORT, 0] if config.port is None else [config.port]
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    for port in wanted:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((config.host, port))
            listening.listen(128)
        except OSError as error:
            listening.close()
            if port == wanted[-1]:
                raise InputError(
                    f"port {port} of {config.host} cannot be listened on "
                    f"({error.strerror or error}); give another --port, or 0 for any that is free",
                    field="port",
                ) from None
        else:
            return listening
    raise AssertionError("no port was tried")


def _wrong_input(request: Request, error: Exception) -> Response:
    """A page or JSON that says what is wrong."""
    code, sentence = 400, error_sentence(str(error))
    if isinstance(error, ModelUnavailable):
        code = 503
    elif isinstance(error, NotFound) and request.method == "GET":
        code = 404
    if isinstance(error, HTTPException):
        code = error.status_code
        sentence = f"there is no page {request.url.path}" if code == 404 else str(error.detail)
    elif isinstance(error, RequestValidationError):
        sentence = _validation_sentence(error)
    answer = _answer(request, code, sentence)
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


def _nested(request: Request, error: Exception) -> Response:
    """JSON of hundreds of levels, which nothing here goes down."""
    return _answer(request, 400, "the request is nested too deeply; send JSON of a few levels")


def _validation_sentence(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])  # the first is body, query or path
    return error_sentence(f"{where or 'the request'}: {first['msg']}")


def _failed(request: Request, error: Exception) -> Response:
    """Something that should not happen; the server goes on."""
    code, sentence = 500, f"this failed unexpectedly ({type(error).__name__}: {error})"
    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        code, remedy = _CANNOT_WRITE[error.errno]
        where = Path(error.filename).parent if error.filename else session_of(request).run
        sentence = f"{where} cannot be written ({error.strerror}); {remedy} and try again"
    return _answer(request, code, error_sentence(sentence))


def _answer(request: Request, code: int, sentence: str) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return page(request, "error.html", status=code, sentence=sentence)
    kind = "server_error" if code >= 500 else "invalid_request_error"
    body = {"error": {"message": sentence, "type": kind, "code": None}}
    return JSONResponse(body, status_code=code)
