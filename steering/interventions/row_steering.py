"""Steering of a batch in which each row has an intervention of its own, or none."""

import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from ..registries import EDITS, GATES
from .edits import Edit, Push, add, push_of
from .firing import LatentTable
from .gates import FiringGate, Gate
from .intervention import Intervention
from .steering import require_fit, steered_site
from .token_watch import SeenTokens


@dataclass(frozen=True, eq=False)
class PreparedIntervention:
    """An intervention with what it needs of a model and an autoencoder; many rows may share it."""

    intervention: Intervention
    sae: SparseAutoencoder
    site: Site
    push: Push
    edit: Edit
    gate: type[Gate]

    @classmethod
    def of(
        cls, intervention: Intervention, model: LanguageModel, sae: SparseAutoencoder
    ) -> "PreparedIntervention":
        """Raises InputError where the intervention does not fit the model or the autoencoder."""
        site = model.site(intervention.site)
        require_fit(intervention, sae, site)
        push, edit = push_of(intervention, sae), EDITS.get(intervention.edit)
        return cls(intervention, sae, site, push, edit, GATES.get(intervention.tier))

    @property
    def adds_one_vector(self) -> bool:
        """Whether it adds the same vector everywhere."""
        plain = self.edit is add and self.push.normalize_activations == "none"
        return self.gate.always_open and plain


@dataclass(eq=False)
class SteeredRow:
    """What is done to, and read of, one row."""

    prepared: PreparedIntervention | None = None
    """How it is steered; None leaves it alone."""
    watched: tuple[int, ...] = ()
    """Latents whose activations are read at its last position of each pass."""
    gate: Gate | None = field(init=False, default=None)
    """Its own gate, unless that is always open."""

    def __post_init__(self) -> None:
        prepared = self.prepared
        if prepared is not None and prepared.intervention.changes_nothing:
            self.prepared = prepared = None
        if prepared is not None and not prepared.gate.always_open:
            self.gate = prepared.gate(prepared.intervention, prepared.sae)


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
                row.prepared.site.name: row.prepared.site
                for row in self.rows
                if row.prepared is not None
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
        self._batch, self.site, self._sae = batch, site, sae
        self._watching: dict[int, tuple[int, ...]] = {}
        self._adding: dict[int, PreparedIntervention] = {}
        self._groups: dict[PreparedIntervention, list[int]] = {}
        for number, row in enumerate(batch.rows):
            if is_watched and row.watched:
                self._watching[number] = row.watched
            prepared = row.prepared
            if prepared is None or prepared.site.name != site.name:
                continue
            if prepared.adds_one_vector:
                self._adding[number] = prepared
            else:
                self._groups.setdefault(prepared, []).append(number)
        self._added_B1D: Tensor | None = None
        self._table: tuple[tuple[tuple[int, int], ...], LatentTable] | None = None

    @property
    def looks_at_tokens(self) -> bool:
        return bool(self._watching) or any(
            not prepared.gate.always_open for prepared in self._groups
        )

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B #L D"]:
        """What is added to the residual, from the residual before any addition."""
        batch = self._batch
        if threading.get_ident() != batch.thread:
            return torch.zeros_like(h_BLD[:, :1])
        change_BLD = self._constant(h_BLD)
        if batch.open_BL is None:
            batch.open_BL = torch.zeros(h_BLD.shape[:2], dtype=torch.bool, device=h_BLD.device)
        if self._adding:
            batch.open_BL[list(self._adding)] = True
        if not self._groups and not self._watching:
            return change_BLD
        change_BLD = change_BLD.repeat(1, h_BLD.shape[1], 1)
        fires = self._fires_and_watched(h_BLD)
        for prepared, rows in self._groups.items():
            try:
                changed = prepared.edit(h_BLD[rows], prepared.push).to(h_BLD)
            # An edit may be anybody's, and may fail in any way: its rows end with what it raised.
            except Exception as error:
                batch.errors.update(dict.fromkeys(rows, error))
                continue
            changed_RLD = changed.expand(len(rows), *h_BLD.shape[1:])
            for place, row in enumerate(rows):
                try:
                    open_L = self._open(row, h_BLD, fires.get(row))
                except Exception as error:
                    batch.errors[row] = error
                    continue
                change_BLD[row] = torch.where(
                    rearrange(open_L, "l -> l 1"), changed_RLD[place], 0.0
                )
                batch.open_BL[row] |= open_L
        return change_BLD

    def _table_of(
        self, sae: SparseAutoencoder, asked: dict[int, tuple[list[int], list[float]]]
    ) -> LatentTable:
        """What is asked of the autoencoder; the same in most passes, until a gate stays open."""
        shape = tuple((row, len(numbers)) for row, (numbers, _) in asked.items())
        if self._table is None or self._table[0] != shape:
            numbers, limits = zip(*asked.values(), strict=True)
            self._table = (shape, LatentTable(sae, numbers, limits))
        return self._table[1]

    def _constant(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B 1 D"]:
        """The vectors of the rows to which one is added everywhere, zeros for the others."""
        if self._added_B1D is None:
            added_B1D = h_BLD.new_zeros(len(self._batch.rows), 1, h_BLD.shape[-1])
            for row, prepared in self._adding.items():
                added_B1D[row] = prepared.push.raw_D.to(h_BLD)
            self._added_B1D = added_B1D
        return self._added_B1D

    def _open(
        self, row: int, h_BLD: Float[Tensor, "B L D"], fires_L: Bool[Tensor, "L"] | None
    ) -> Bool[Tensor, "L"]:
        gate = self._batch.rows[row].gate
        if gate is None:
            return torch.ones(h_BLD.shape[1], dtype=torch.bool, device=h_BLD.device)
        seen = self._batch.seen[row]
        if fires_L is not None and isinstance(gate, FiringGate):
            return gate.open_where(fires_L[None], seen)[0].to(h_BLD.device)
        return gate.open(h_BLD[row : row + 1], seen)[0].to(h_BLD.device)

    def _fires_and_watched(self, h_BLD: Float[Tensor, "B L D"]) -> dict[int, Bool[Tensor, "L"]]:
        """Where each row with a gate of firing features fires; and what is watched is noted.

        The autoencoder is asked about all rows at once.
        """
        fires: dict[int, Tensor] = {}
        asked: dict[int, tuple[list[int], list[float]]] = {}
        gated: dict[int, int] = {}
        sae = self._sae
        for prepared, rows in self._groups.items():
            for row in rows:
                gate = self._batch.rows[row].gate
                if not isinstance(gate, FiringGate):
                    continue
                sae = prepared.sae
                content_L = self._batch.seen[row].content_BL[0].to(h_BLD.device)
                if gate.stays_open(self._batch.seen[row]) or gate.firing.always:
                    fires[row] = content_L
                    continue
                asked[row] = (list(gate.firing.latents), list(gate.firing.thresholds))
                gated[row] = len(gate.firing.latents)
        for row, latents in self._watching.items():
            numbers, limits = asked.setdefault(row, ([], []))
            numbers += latents
            limits += [0.0] * len(latents)
        if not asked or sae is None:
            return fires
        table = self._table_of(sae, asked)
        rows = list(asked)
        asked_RL = torch.cat([self._batch.seen[row].content_BL for row in rows])
        for place, row in enumerate(rows):
            if row not in gated:  # It is only watched, at the last position.
                asked_RL[place, :-1] = False
        acts_RLP = table.activations(h_BLD[rows], asked_RL)
        above_RLP = acts_RLP > table.thresholds_RP[:, None].to(acts_RLP)
        for place, row in enumerate(rows):
            n_gated = gated.get(row, 0)
            if n_gated:
                fires[row] = above_RLP[place, :, :n_gated].any(dim=1)
            if row in self._watching:
                end = n_gated + len(self._watching[row])
                self._batch.activations[row] = acts_RLP[place, -1, n_gated:end]
        return fires
