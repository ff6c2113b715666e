"""Many requests generated together, each steered in its own way."""

from typing import TYPE_CHECKING

from ...sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from .engine import Engine as Engine
    from .request import GenerationRequest as GenerationRequest
    from .request import QueueFull as QueueFull
    from .request import TokenEvent as TokenEvent
    from .stream import TokenStream as TokenStream

__getattr__, __dir__, __all__ = export_lazily(__name__)
