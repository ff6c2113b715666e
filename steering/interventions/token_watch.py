"""The tokens, mask and cache that a language model is called with, for gates that look at them."""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...sae.language_model.kv_cache import cached_positions
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.network import is_being_asked


class SeenTokens(NamedTuple):
    """What a gate knows of the tokens of a forward pass of L columns, on the CPU or the model's
    device."""

    tokens_BL: Int[Tensor, "B L"]
    positions_BL: Int[Tensor, "B L"]
    """Of each token in its text, from 0 at the first one, BOS; below 0 at padding before it."""
    content_BL: Bool[Tensor, "B L"]
    """False at padding, special tokens and each text's first token."""
    n_prompt: int
    """The first so many columns belong to the prompt."""
    continues: bool
    """Whether the texts began in earlier passes."""


class TokenWatch:
    """Sees the tokens, mask and cache that the language model, or its body alone, is called with.

    A model need not call its body as a whole: OPT's calls the decoder inside.
    """

    def __init__(self, model: LanguageModel, prompt_columns: int | None) -> None:
        self._model = model
        self._prompt_columns = prompt_columns
        self._tokens_BT: Int[Tensor, "B T"] | None = None
        self._now: SeenTokens | None = None
        self._inside = False
        """Whether the model as a whole is running."""

    @contextmanager
    def watching(self) -> Generator[None]:
        """Within the context, forward passes are seen."""
        whole: Any = self._model.network.model
        body: Any = whole.base_model
        handles: list[RemovableHandle] = [
            whole.register_forward_pre_hook(self._begin, with_kwargs=True),
            whole.register_forward_hook(self._end, always_call=True),
            body.register_forward_pre_hook(self._see, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._see(model, args, kwargs)
        self._inside = True

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self._inside = False

    def take(self) -> SeenTokens:
        """What is known of the pass that is running."""
        if self._now is None:
            raise RuntimeError("the site was reached by a forward pass that began elsewhere")
        now, self._now = self._now, None
        return now

    def _see(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._inside or is_being_asked():
            return
        given = inspect.signature(body.forward).bind_partial(*args, **kwargs).arguments
        given |= given.get("kwargs", {})
        tokens_BL, mask = given.get("input_ids"), given.get("attention_mask")
        if tokens_BL is None:
            raise ValueError("a gate needs the tokens; call the model with input_ids")
        n_given = 0 if self._tokens_BT is None else self._tokens_BT.shape[1]
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.ndim != 2:
                raise ValueError(
                    "a gate needs an attention_mask of two dimensions; generate without "
                    "cache_implementation"
                )
            n_given = mask.shape[1] - tokens_BL.shape[1]
        cache = given.get("cache", given.get("past_key_values"))
        n_past = cached_positions(cache, n_given)
        if cache is not None:
            cache.reorder_cache = _refuse_reordering
        tokens_BT = self._continued(tokens_BL, n_past)
        if mask is None:
            mask = torch.ones_like(tokens_BT)
        if mask.shape != tokens_BT.shape:
            raise ValueError(
                f"attention_mask has shape {list(mask.shape)}; a gate needs that of all "
                f"tokens so far, {list(tokens_BT.shape)}"
            )
        self._tokens_BT = tokens_BT
        content_BT = ~self._model.excluded_tokens(tokens_BT, mask.bool())
        n_prompt = 0 if n_past else tokens_BT.shape[1]
        if self._prompt_columns is not None:
            n_prompt = min(n_prompt, self._prompt_columns)
        self._now = SeenTokens(
            tokens_BL=tokens_BL,
            positions_BL=mask.long().cumsum(dim=1)[:, n_past:] - 1,
            content_BL=content_BT[:, n_past:],
            n_prompt=n_prompt,
            continues=n_past > 0,
        )

    def _continued(self, tokens_BL: Int[Tensor, "B L"], n_past: int) -> Int[Tensor, "B T"]:
        if n_past == 0:
            return tokens_BL
        before = self._tokens_BT
        if before is None or before.shape != (len(tokens_BL), n_past):
            raise ValueError(
                f"the cache holds {n_past} positions that this steering run has not seen; begin "
                "the texts inside its with block"
            )
        return torch.cat([before, tokens_BL], dim=1)


def _refuse_reordering(beam_indices: object) -> None:
    raise ValueError(
        "beam search exchanges the rows of a batch between passes, and a gate follows each row, as "
        "do positions; generate with num_beams=1, or steer all positions with the gate constant"
    )
