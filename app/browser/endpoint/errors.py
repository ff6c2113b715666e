"""Errors in the JSON that OpenAI's clients read."""

from typing import Any

from starlette.responses import JSONResponse

from ....sae.common.errors import InputError
from ....sae.common.text import error_sentence
from ....steering.serving.request import EngineClosed, QueueFull
from ..session import ModelUnavailable


class UnknownModel(InputError):
    """The request names a model that is not served."""


def error_status(error: Exception) -> int:
    """The HTTP status of what went wrong."""
    if isinstance(error, UnknownModel):
        return 404
    if isinstance(error, ModelUnavailable):
        return 503
    if isinstance(error, RecursionError):
        return 400
    if isinstance(error, InputError):
        return 400
    if isinstance(error, QueueFull):
        return 429
    return 503 if isinstance(error, EngineClosed) else 500


def error_values(error: Exception) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    status = error_status(error)
    sentence = str(error)
    if status == 500:
        sentence = f"this failed unexpectedly ({type(error).__name__}: {error})"
    if isinstance(error, RecursionError):
        sentence = "the request is nested too deeply; send fewer levels"
    kinds = {404: "invalid_request_error", 400: "invalid_request_error", 429: "rate_limit_error"}
    codes = {404: "model_not_found", 429: "queue_full", 503: "server_ending"}
    values = {
        "message": error_sentence(sentence),
        "type": kinds.get(status, "server_error"),
        "param": error.field if isinstance(error, InputError) else None,
        "code": "model_unavailable" if isinstance(error, ModelUnavailable) else codes.get(status),
    }
    return {"error": values}


def error_response(error: Exception) -> JSONResponse:
    """The answer to a request that cannot be served."""
    status = error_status(error)
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse(error_values(error), status_code=status, headers=headers)
