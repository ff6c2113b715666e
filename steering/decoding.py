"""Rows of tokens that a model continues together, each steered in its own way."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ..sae.language_model.kv_cache import cut_columns, join_caches, keep_rows, new_cache
from ..sae.language_model.model import LanguageModel
from .interventions.row_steering import PassTokens, RowSteering
from .texts import left_padded


class DecodingRows:
    """Token rows, padded on the left, with the cache of what the model has read of them.

    A step is `read`, which gives the logits of each row's next token, then `append`. Between steps
    rows may join and leave. Nothing is left on the model between passes.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        steering: RowSteering,
        *,
        use_cache: bool = True,
    ) -> None:
        """Take the prompts as token ids and what steers each of them.

        Args:
            model: the language model.
            prompts: token ids of at least one prompt, each of at least one token.
            steering: of as many rows.
            use_cache: False gives the model the whole text anew in each pass, as is done where the
                model's cache does not give the same tokens.

        Raises InputError where the model takes the padding of prompts of unlike lengths for text.
        """
        self._model, self.steering = model, steering
        tokens_BT, mask_BT = left_padded(model, prompts)
        model.require_padding(mask_BT)
        self.tokens_BT: Int[Tensor, "B T"] = tokens_BT.to(model.device)
        self.mask_BT: Bool[Tensor, "B T"] = mask_BT.to(model.device)
        self._prompt_columns = [tokens_BT.shape[1]] * len(prompts)
        self._n_seen = 0
        self._cache: dict[str, Any] = {}
        if use_cache and model.kv_cache_works:
            name, cache = new_cache(model.network.model)
            self._cache[name] = cache
        self.steered_BT: Bool[Tensor, "B T"] = torch.zeros_like(self.mask_BT[:, :0])
        """Where the rows were steered, of the columns that were read."""

    def __len__(self) -> int:
        return len(self.tokens_BT)

    @torch.no_grad()
    def read(self) -> Float[Tensor, "B V"]:
        """Run the model over the tokens it has not read, and return each row's last logits."""
        n_seen = self._n_seen
        now = PassTokens(self.tokens_BT, self.mask_BT, n_seen, self._prompt_columns)
        with self.steering.steering(now):
            logits_BLV = self._model.network(
                self.tokens_BT[:, n_seen:],
                self.mask_BT.long(),
                use_cache=bool(self._cache),
                logits_to_keep=1,
                **self._cache,
            )
        if self._cache:
            self._n_seen = self.tokens_BT.shape[1]
        steered_BL = torch.zeros_like(self.mask_BT[:, n_seen:])
        if self.steering.open_BL is not None:
            steered_BL = self.steering.open_BL & self.mask_BT[:, n_seen:]
        self.steered_BT = torch.cat([self.steered_BT[:, :n_seen], steered_BL], dim=1)
        return logits_BLV[:, -1]

    def append(
        self, chosen_B: Int[Tensor, "B"], goes_on_B: Bool[Tensor, "B"] | None = None
    ) -> None:
        """Put a token behind each row; it is masked, whatever it is, where a row does not go on."""
        if goes_on_B is None:
            goes_on_B = torch.ones_like(chosen_B, dtype=torch.bool)
        self.tokens_BT = torch.cat([self.tokens_BT, chosen_B[:, None]], dim=1)
        goes_on_B = goes_on_B.to(self.mask_BT, non_blocking=True)
        self.mask_BT = torch.cat([self.mask_BT, goes_on_B[:, None]], dim=1)

    def join(self, other: "DecodingRows") -> None:
        """Put the other's rows behind these, which have as many tokens unread; the shorter are
        padded. The other is of no more use. Where that fails, these are as they were."""
        n_before = self.tokens_BT.shape[1]
        width = max(n_before, other.tokens_BT.shape[1])
        try:
            for rows in (self, other):
                rows._widen(width - rows.tokens_BT.shape[1])
            tokens_BT = torch.cat([self.tokens_BT, other.tokens_BT])
            mask_BT = torch.cat([self.mask_BT, other.mask_BT])
            steered_BT = torch.cat([self.steered_BT, other.steered_BT])
            for mine, theirs in zip(self._cache.values(), other._cache.values(), strict=True):
                join_caches(mine, theirs)
        except BaseException:
            self._widen(n_before - self.tokens_BT.shape[1])
            raise
        self.tokens_BT, self.mask_BT, self.steered_BT = tokens_BT, mask_BT, steered_BT
        self._prompt_columns += other._prompt_columns
        self._n_seen = max(self._n_seen, other._n_seen)
        self.steering.join(other.steering)

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, at least one, in this order; columns that are padding in all of
        them go, too."""
        self.steering.keep(rows)
        chosen_R = torch.tensor(list(rows), device=self.tokens_BT.device)
        self.tokens_BT = self.tokens_BT[chosen_R]
        self.mask_BT = self.mask_BT[chosen_R]
        self.steered_BT = self.steered_BT[chosen_R]
        self._prompt_columns = [self._prompt_columns[row] for row in rows]
        for cache in self._cache.values():
            keep_rows(cache, chosen_R)
        n_padding = int(self.mask_BT.any(dim=0).long().argmax())
        if n_padding:
            self._cut(n_padding)

    def keep_unread(self, rows: Sequence[int]) -> None:
        """As `keep`, after a pass that failed: whatever it left in the cache, the next one reads
        all tokens anew."""
        for name in self._cache:
            _, self._cache[name] = new_cache(self._model.network.model)
        self.keep(rows)
        self._n_seen = 0

    def _widen(self, n_columns: int) -> None:
        """Put padding before all rows, of which the caches are told when they are joined; or take
        it away, where the number is negative."""
        beside = (n_columns, 0)
        self.tokens_BT, self.mask_BT, self.steered_BT = (
            pad(self.tokens_BT, beside, value=self._model.pad_id),
            pad(self.mask_BT, beside, value=False),
            pad(self.steered_BT, beside, value=False),
        )
        self._prompt_columns = [n_columns + n_prompt for n_prompt in self._prompt_columns]
        if self._cache:
            self._n_seen += n_columns

    def _cut(self, n_columns: int) -> None:
        """Take away padding before all rows."""
        self.tokens_BT = self.tokens_BT[:, n_columns:]
        self.mask_BT = self.mask_BT[:, n_columns:]
        self.steered_BT = self.steered_BT[:, n_columns:]
        self._prompt_columns = [n_prompt - n_columns for n_prompt in self._prompt_columns]
        if self._cache:
            self._n_seen -= n_columns
        for cache in self._cache.values():
            cut_columns(cache, n_columns)
