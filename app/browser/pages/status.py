"""How far the language model is, asked for by every page."""

from fastapi import APIRouter
from starlette.requests import Request

from ..rendering import session_of

router = APIRouter()


@router.get("/api/status")
def status(request: Request) -> dict[str, str]:
    """The run, the language model, and whether it is ready."""
    session = session_of(request)
    session.start_loading()
    return {
        "run": str(session.run),
        "model": session.model_name,
        "model_status": session.model_status,
    }
