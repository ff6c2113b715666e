"""Steering of a batch in which each row has an intervention of its own, or none."""

import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from .asked_latents import AskedLatents, RowAndGate
from .gates.base import GateRule
from .gates.scores import ScoreGate
from .gates.tiers import FiringGate
from .prepared import OpenAt, PreparedIntervention
from .row_choice import RowChoice
from .steering import steered_site
from .token_watch import SeenTokens


@dataclass(eq=False)
class SteeredRow:
    """What is done to, and read of, one row."""

    prepared: PreparedIntervention | None = None
    """How it is steered; None leaves it alone."""
    watched: tuple[int, ...] = ()
    """Latents whose activations are read at its last position of each pass."""
    gates: tuple[GateRule, ...] = field(init=False, default=())
    """Its own gates, in the order of the intervention's."""

    def __post_init__(self) -> None:
        prepared = self.prepared
        if prepared is not None and prepared.intervention.changes_nothing:
            self.prepared = prepared = None
        if prepared is not None:
            self.gates = tuple(gate.begin() for gate in prepared.gates)


@dataclass(frozen=True)
class PassTokens:
    """The tokens of a forward pass over the last L of T columns."""

    tokens_BT: Int[Tensor, "B T"]
    mask_BT: Bool[Tensor, "B T"]
    """False at padding, which stands before a row or behind its end."""
    n_seen: int
    """Columns that earlier passes read, which the cache holds."""
    prompt_columns: Sequence[int]
    """Of each row, how many columns are prompt or the padding before it."""


class RowSteering:
    """The rows of a batch, and what steers each of them.

    After a pass it says where each row was steered, what was watched, and which rows failed.
    """

    def __init__(
        self,
        model: LanguageModel,
        rows: Sequence[SteeredRow],
        *,
        watched_site: Site | None = None,
        sae: SparseAutoencoder | None = None,
    ) -> None:
        """Take the rows; where some are watched, also the autoencoder and the site it reads."""
        self.model = model
        self.rows = list(rows)
        self._watched_site, self._sae = watched_site, sae
        self._sites: list[_RowsAtSite] | None = None
        self.seen: list[SeenTokens] = []
        self.thread: int | None = None
        """Whose passes are steered."""
        self.open_BL: Bool[Tensor, "B L"] | None = None
        """Where the rows were steered in the last pass, padding aside; None is nowhere."""
        self.activations: dict[int, Tensor] = {}
        """By the row's number, the activations of its watched latents at the last position."""
        self.opened: dict[int, dict[int, OpenAt]] = {}
        """By the row's number and the gate's, where it is open in this pass, [1, L]."""
        self.errors: dict[int, Exception] = {}
        """By the row's number, what its gate or edit raised in the last pass."""

    def join(self, other: "RowSteering") -> None:
        """Put the other's rows behind these."""
        self.rows += other.rows
        self._sites = None

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, in this order."""
        self.rows = [self.rows[row] for row in rows]
        self._sites = None

    @contextmanager
    def steering(self, now: PassTokens) -> Generator[None]:
        """Within the context, one forward pass over these tokens is steered, of this thread
        alone."""
        self.open_BL, self.activations, self.errors, self.seen = None, {}, {}, []
        self.opened = {}
        self.thread = threading.get_ident()
        sites = self._at_sites()
        if any(site.looks_at_tokens for site in sites):
            self.seen = self._seen_tokens(now)
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(steered_site(self.model, site.site, site))
            yield

    def _at_sites(self) -> "list[_RowsAtSite]":
        if self._sites is None:
            sites = {
                site.name: site
                for row in self.rows
                if row.prepared is not None
                for site in row.prepared.sites
            }
            if (watched := self._watched_site) and any(row.watched for row in self.rows):
                sites.setdefault(watched.name, watched)
            self._sites = [
                _RowsAtSite(self, site, self._sae, watched is not None and watched.name == name)
                for name, site in sites.items()
            ]
        return self._sites

    def _seen_tokens(self, now: PassTokens) -> list[SeenTokens]:
        """What each row's gate knows of the pass."""
        n_seen, mask_BT = now.n_seen, now.mask_BT
        content_BL = ~self.model.excluded_tokens(now.tokens_BT, mask_BT)[:, n_seen:]
        positions_BL = mask_BT.long().cumsum(dim=1)[:, n_seen:] - 1
        tokens_BL = now.tokens_BT[:, n_seen:]
        return [
            SeenTokens(
                tokens_BL=tokens_BL[row, None],
                positions_BL=positions_BL[row, None],
                content_BL=content_BL[row, None],
                n_prompt=0 if n_seen else min(n_prompt, tokens_BL.shape[1]),
                continues=n_seen > 0,
            )
            for row, n_prompt in enumerate(now.prompt_columns)
        ]


class _RowsAtSite:
    """What the rows of a batch do at one site."""

    def __init__(
        self, batch: RowSteering, site: Site, sae: SparseAutoencoder | None, is_watched: bool
    ) -> None:
        self._batch, self.site = batch, site
        self._watching: dict[int, tuple[int, ...]] = {}
        self._adding: dict[int, PreparedIntervention] = {}
        self._groups: dict[PreparedIntervention, list[int]] = {}
        self._gates: dict[int, list[int]] = {}
        """By the row's number, those of its gates that are asked here."""
        for number, row in enumerate(batch.rows):
            if is_watched and row.watched:
                self._watching[number] = row.watched
            prepared = row.prepared
            if prepared is None:
                continue
            gates = [
                place
                for place, gate in enumerate(prepared.gates)
                if not gate.always_open and gate.site.name == site.name
            ]
            if gates:
                self._gates[number] = gates
            if site.name not in prepared.edits:
                continue
            if prepared.adds_one_vector:
                self._adding[number] = prepared
            else:
                self._groups.setdefault(prepared, []).append(number)
        self._added_B1D: Tensor | None = None
        self._chosen = RowChoice()
        firing = {
            (row, number): gate
            for row, numbers in self._gates.items()
            for number in numbers
            if isinstance(gate := batch.rows[row].gates[number], FiringGate)
        }
        self._latents = AskedLatents(firing, self._watching, sae)
        self._asked_together: dict[
            tuple[PreparedIntervention | None, int], tuple[ScoreGate, list[int]]
        ] = {}
        for row, numbers in self._gates.items():
            for number in numbers:
                gate = batch.rows[row].gates[number]
                if isinstance(gate, ScoreGate) and gate.asks_each_token:
                    key = (batch.rows[row].prepared, number)
                    self._asked_together.setdefault(key, (gate, []))[1].append(row)

    @property
    def looks_at_tokens(self) -> bool:
        return bool(self._watching or self._gates) or any(
            prepared.looks_at_tokens for prepared in self._groups
        )

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B #L D"] | None:
        """What is added to the residual, from the residual before any addition."""
        batch = self._batch
        if threading.get_ident() != batch.thread:
            return None
        if batch.open_BL is None:
            batch.open_BL = torch.zeros(h_BLD.shape[:2], dtype=torch.bool, device=h_BLD.device)
        if self._gates or self._watching:
            fires, watched = self._latents.ask(h_BLD, batch.seen)
            batch.activations |= watched
            self._ask_gates(h_BLD, fires)
        if not (self._adding or self._groups):
            return None
        change_BLD = self._constant(h_BLD)
        if self._adding:
            batch.open_BL[self._chosen(list(self._adding), h_BLD)] |= True
        if not self._groups:
            return change_BLD
        change_BLD = change_BLD.repeat(1, h_BLD.shape[1], 1)
        for prepared, rows in self._groups.items():
            going = [row for row in rows if row not in batch.errors]
            try:
                if going:
                    self._change_group(prepared, going, h_BLD, change_BLD)
            # An edit may be anybody's, and may fail in any way: its rows end with what it raised.
            except Exception as error:
                batch.errors.update(dict.fromkeys(going, error))
        return change_BLD

    def _change_group(
        self,
        prepared: PreparedIntervention,
        rows: list[int],
        h_BLD: Float[Tensor, "B L D"],
        change_BLD: Float[Tensor, "B L D"],
    ) -> None:
        """Write what an intervention adds to its rows into the change."""
        batch, shape = self._batch, (len(rows), *h_BLD.shape[1:])
        chosen = self._chosen(rows, h_BLD)
        opened = {
            number: self._opened(prepared, rows, number)
            for number in {edit.gate for edit in prepared.edits[self.site.name]}
        }
        changed = prepared.change(self.site.name, h_BLD[chosen], opened)
        change_BLD[chosen] = changed.expand(shape)
        assert batch.open_BL is not None
        for at_RL in opened.values():
            somewhere: Tensor | bool = True if at_RL is None else at_RL.to(h_BLD.device) > 0
            batch.open_BL[chosen] |= somewhere

    def _opened(self, prepared: PreparedIntervention, rows: list[int], number: int) -> OpenAt:
        """Where a gate of an intervention is open in each of its rows, [R, L]."""
        batch = self._batch
        if prepared.gates[number].always_open:
            if not prepared.looks_at_tokens:
                return None
            each = [prepared.open_at(None, batch.seen[row]) for row in rows]
        else:
            each = [batch.opened[row][number] for row in rows]
        known = [at_1L for at_1L in each if at_1L is not None]
        return torch.cat(known) if len(known) == len(rows) else None

    def _ask_gates(
        self, h_BLD: Float[Tensor, "B L D"], fires: dict[RowAndGate, Bool[Tensor, "L"]]
    ) -> None:
        """Note where the gates of this site are open in this pass."""
        batch, together = self._batch, self._opened_together(h_BLD)
        for row, numbers in self._gates.items():
            prepared, seen = batch.rows[row].prepared, batch.seen[row]
            assert prepared is not None  # since it has gates
            for number in numbers:
                try:
                    opened = together.get((row, number))
                    if opened is None:
                        opened = self._open(row, number, h_BLD, fires.get((row, number)))
                    batch.opened.setdefault(row, {})[number] = prepared.open_at(opened, seen)
                except Exception as error:
                    batch.errors[row] = error

    def _opened_together(self, h_BLD: Float[Tensor, "B L D"]) -> dict[RowAndGate, Tensor]:
        """Where gates are open that remember nothing, [1, L]: those of an intervention are asked
        for all its rows at once."""
        batch, found = self._batch, dict[RowAndGate, Tensor]()
        for (_, number), (gate, rows) in self._asked_together.items():
            content_RL = torch.cat([batch.seen[row].content_BL for row in rows]).to(h_BLD.device)
            try:
                opened_RL = gate.open_tokens(h_BLD[self._chosen(rows, h_BLD)], content_RL)
            except Exception:  # They are asked row by row, and what that raises ends the row.
                continue
            found |= {(row, number): opened_RL[n : n + 1] for n, row in enumerate(rows)}
        return found

    def _constant(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B 1 D"]:
        """The vectors of the rows to which one is added everywhere, zeros for the others."""
        if self._added_B1D is None:
            added_B1D = h_BLD.new_zeros(len(self._batch.rows), 1, h_BLD.shape[-1])
            for row, prepared in self._adding.items():
                everywhere: dict[int, OpenAt] = dict.fromkeys(range(len(prepared.gates)))
                own_BLD = h_BLD[row : row + 1]
                added_B1D[row] = prepared.change(self.site.name, own_BLD, everywhere)
            self._added_B1D = added_B1D
        return self._added_B1D

    def _open(
        self,
        row: int,
        number: int,
        h_BLD: Float[Tensor, "B L D"],
        fires_L: Bool[Tensor, "L"] | None,
    ) -> Tensor:
        gate, seen = self._batch.rows[row].gates[number], self._batch.seen[row]
        if fires_L is not None and isinstance(gate, FiringGate):
            return gate.open_where(fires_L[None], seen).to(h_BLD.device)
        return gate.open(h_BLD[row : row + 1], seen).to(h_BLD.device)
