"""Which latents the rows of a batch ask about at one site: for their gates, and to be watched."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from .firing import LatentTable
from .gates.tiers import FiringGate
from .row_choice import RowChoice
from .token_watch import SeenTokens

RowAndGate = tuple[int, int]
"""The number of a row in the batch, and of a gate among its own."""


class AskedLatents:
    """The latents, asked of the autoencoder for all rows at once."""

    def __init__(
        self,
        gates: Mapping[RowAndGate, FiringGate],
        watching: Mapping[int, tuple[int, ...]],
        sae: SparseAutoencoder | None,
    ) -> None:
        """Take what asks.

        Args:
            gates: gates of firing features.
            watching: by the row's number, latents whose activation is read at its last position.
            sae: the autoencoder of those that are watched; gates have their own, which is the same.
        """
        self._gates, self._watching = gates, watching
        self._sae = next((gate.sae for gate in gates.values()), sae)
        self._chosen = RowChoice()
        self._table: tuple[tuple[tuple[int, int], ...], LatentTable] | None = None

    def ask(
        self, h_BLD: Float[Tensor, "B L D"], seen: Sequence[SeenTokens]
    ) -> tuple[dict[RowAndGate, Bool[Tensor, "L"]], dict[int, Float[Tensor, "P"]]]:
        """Where the features of each gate fire, and by their row the activations that are watched.

        Args:
            h_BLD: raw activations before any edit.
            seen: of each row.
        """
        fires: dict[RowAndGate, Tensor] = {}
        asked: dict[int, tuple[list[int], list[float]]] = {}
        parts: dict[RowAndGate, slice] = {}
        for (row, number), gate in self._gates.items():
            if gate.stays_open(seen[row]) or gate.firing.always:
                fires[row, number] = seen[row].content_BL[0].to(h_BLD.device)
                continue
            parts[row, number] = _add(asked, row, gate.firing.latents, gate.firing.thresholds)
        gated = set(asked)
        watched = {
            row: _add(asked, row, latents, [0.0] * len(latents))
            for row, latents in self._watching.items()
        }
        if not asked or self._sae is None:
            return fires, {}
        table, places = self._table_of(self._sae, asked), {row: n for n, row in enumerate(asked)}
        asked_RL = torch.cat([seen[row].content_BL for row in asked])
        for row, place in places.items():
            if row not in gated:  # It is only watched, at the last position.
                asked_RL[place, :-1] = False
        acts_RLP = table.activations(h_BLD[self._chosen(list(asked), h_BLD)], asked_RL)
        above_RLP = acts_RLP > table.thresholds_RP[:, None].to(acts_RLP)
        for (row, number), part in parts.items():
            fires[row, number] = above_RLP[places[row], :, part].any(dim=1)
        return fires, {row: acts_RLP[places[row], -1, part] for row, part in watched.items()}

    def _table_of(
        self, sae: SparseAutoencoder, asked: dict[int, tuple[list[int], list[float]]]
    ) -> LatentTable:
        """What is asked of the autoencoder; the same in most passes, until a gate stays open."""
        shape = tuple((row, len(numbers)) for row, (numbers, _) in asked.items())
        if self._table is None or self._table[0] != shape:
            numbers, limits = zip(*asked.values(), strict=True)
            self._table = (shape, LatentTable(sae, numbers, limits))
        return self._table[1]


def _add(
    asked: dict[int, tuple[list[int], list[float]]],
    row: int,
    latents: Sequence[int],
    thresholds: Sequence[float],
) -> slice:
    """Put latents behind those that the row asks about already; where they stand there."""
    numbers, limits = asked.setdefault(row, ([], []))
    start = len(numbers)
    numbers += latents
    limits += thresholds
    return slice(start, len(numbers))
