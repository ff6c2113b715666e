"""Templates into pages. Text is always escaped; what is not plainly visible is written out."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ...sae.common.text import visible
from ...sae.common.wording import count, counted, percent
from .examples import token_text
from .numbers import figures, rate
from .session import Session

HERE = Path(__file__).parent
STATIC = HERE / "static"


def session_of(request: Request) -> Session:
    """What the server that answers a request has open."""
    session = request.app.state.session
    assert isinstance(session, Session)
    return session


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from a template, which extends base.html.

    Args:
        request: whom it answers.
        template: file in templates/.
        status: of the answer.
        values: what the template names.
    """
    session = session_of(request)
    text = (
        environment()
        .get_template(template)
        .render(session=session, path=request.url.path, **values)
    )
    return HTMLResponse(text, status_code=status)


@cache
def environment() -> jinja2.Environment:
    """The templates with their filters; a name that a template lacks is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = made.filters
    filters.update(visible=visible, count=count, counted=counted, percent=percent)
    filters.update(figures=figures, rate=rate, chip=token_text)
    return made
