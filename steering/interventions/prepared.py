"""An intervention with what it needs of a model and an autoencoder; runs and rows share it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.network import SITE_KINDS
from ...sae.language_model.sites import Site
from ..registries import GATES
from .autoencoders import Autoencoders, autoencoder_at, gate_of, require_autoencoders
from .cap import CapRule
from .edits.adding import Add
from .edits.base import EditRule, edit_rule
from .gates.base import GateRule, gate_rule
from .intervention import Intervention
from .positions import positions_of
from .rules import Context
from .spec import Edit, Gate
from .token_watch import SeenTokens

OpenAt = Tensor | None
"""Where a gate is open in a pass: Bool [B, L], or Float [B, L] from 0 to 1; None is everywhere."""


@dataclass(frozen=True, eq=False)
class PreparedGate:
    """A gate before any text; each batch, or each row that comes and goes by itself, has a
    `GateRule` of its own."""

    gate: Gate
    """With the features of the edits where it has none of its own."""
    site: Site
    """Where it reads."""
    context: Context

    @property
    def always_open(self) -> bool:
        """Whether it is open everywhere, and not asked."""
        return GATES.get(self.gate.kind).always_open

    def begin(self) -> GateRule:
        """A gate that has seen no text."""
        return gate_rule(self.gate, self.context)


@dataclass(frozen=True, eq=False)
class PreparedEdit:
    """An edit, and the number of its gate among the intervention's."""

    rule: EditRule
    gate: int

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."]:
        """strength * (T(h) - h), in the dtype of h."""
        change, strength = self.rule.change(h_BLD), self.rule.edit.strength
        return (change if strength == 1 else strength * change).to(h_BLD)


@dataclass(frozen=True, eq=False)
class PreparedIntervention:
    """An intervention that fits a model and autoencoders, and its sites, edits and gates."""

    intervention: Intervention
    sites: tuple[Site, ...]
    """Where something is read or written, in the model's order."""
    gates: tuple[PreparedGate, ...]
    edits: Mapping[str, tuple[PreparedEdit, ...]]
    """By the name of their site."""
    caps: Mapping[str, CapRule]
    """By the name of their site: one or none."""

    @classmethod
    def of(
        cls, intervention: Intervention, model: LanguageModel, saes: Autoencoders | None
    ) -> "PreparedIntervention":
        """Raises InputError where the intervention does not fit the model or an autoencoder."""
        sites = {name: model.site(name) for name in intervention.sites}
        if intervention.needs_autoencoder:
            require_autoencoders(intervention, saes, sites)
        contexts = {
            name: Context(site.width, model.device, autoencoder_at(saes, name))
            for name, site in sites.items()
        }
        gates: dict[Gate, int] = {}
        prepared: list[PreparedGate] = []
        edits: dict[str, list[PreparedEdit]] = {}
        in_order = sorted(intervention.edits, key=lambda each: _order(sites[each.site]))
        common = intervention.gate
        if isinstance(saes, Mapping):
            common = gate_of(intervention, in_order[0].site)
        for edit in in_order:
            gate = _resolved(edit, common, intervention)
            number = gates.setdefault(gate, len(gates))
            if number == len(prepared):
                place = model.site(gate.site or edit.site)
                own_sae = autoencoder_at(saes, place.name)
                context = Context(place.width, model.device, own_sae)
                prepared.append(PreparedGate(gate, place, context))
                prepared[-1].begin()  # which checks it
            if _order(prepared[number].site) > _order(sites[edit.site]):
                raise InputError(
                    f"the gate reads {prepared[number].site.name}, which comes behind the edit at "
                    f"{edit.site}; let it read an earlier site",
                    field="site",
                )
            rule = edit_rule(edit, contexts[edit.site])
            if edit.strength != 0:
                edits.setdefault(edit.site, []).append(PreparedEdit(rule, number))
        caps: dict[str, CapRule] = {}
        if (cap := intervention.cap) is not None:
            name = cap.site or intervention.site
            if name not in sites:
                raise InputError(f"cap is at {name}, where nothing is edited; give an edit's site")
            caps[name] = CapRule(cap, contexts[name])
        sites |= {each.site.name: each.site for each in prepared if not each.always_open}
        ordered = tuple(sorted(sites.values(), key=_order))
        return cls(
            intervention,
            ordered,
            tuple(prepared),
            {name: tuple(each) for name, each in edits.items()},
            caps,
        )

    @property
    def looks_at_tokens(self) -> bool:
        """Whether it has to know the tokens of a pass."""
        some = any(not gate.always_open for gate in self.gates)
        return some or self.intervention.positions != "all"

    @property
    def adds_one_vector(self) -> bool:
        """Whether it adds the same vector everywhere at its site."""
        if len(self.edits) > 1 or self.caps or self.looks_at_tokens:
            return False
        rules = [edit.rule for edits in self.edits.values() for edit in edits]
        return all(isinstance(rule, Add) and rule.is_one_vector for rule in rules)

    def open_at(self, opened: OpenAt, seen: SeenTokens | None) -> OpenAt:
        """Where a gate is open, of those tokens that `positions` names."""
        if seen is None or (meant := positions_of(self.intervention.positions, seen)) is None:
            return opened
        if opened is None:
            return meant
        meant = meant.to(opened.device)
        return torch.where(meant, opened, torch.zeros_like(opened))

    def change(
        self, site: str, h_BLD: Float[Tensor, "B L D"], opened: Mapping[int, OpenAt]
    ) -> Float[Tensor, "..."]:
        """What is added to the activations of a site, [B, L, D] or [D].

        Args:
            site: its name, one with edits.
            h_BLD: raw activations, before any edit there.
            opened: of each gate of an edit there, where it is open.
        """
        total: Tensor | None = None
        for edit in self.edits[site]:
            change, at_BL = edit.change(h_BLD), opened[edit.gate]
            if at_BL is not None:
                at_BL1 = rearrange(at_BL.to(h_BLD.device), "b l -> b l 1")
                if at_BL.is_floating_point():
                    change = at_BL1.to(h_BLD) * change
                else:
                    change = torch.where(at_BL1, change, 0.0)
            total = change if total is None else total + change
        assert total is not None  # there is an edit at each site of `edits`
        if (cap := self.caps.get(site)) is not None:
            total = total.expand_as(h_BLD)
            factors_BL1 = rearrange(cap.factor(h_BLD, total), "b l -> b l 1")
            total = torch.where(factors_BL1 == 1, total, factors_BL1.to(h_BLD) * total)
        return total


def _resolved(edit: Edit, common: Gate, intervention: Intervention) -> Gate:
    """The gate of an edit, its own or the common one: its features and its site are given."""
    gate = edit.gate or common
    own = edit.gate is not None
    features = edit.features if own else intervention.features
    if gate.kind == "constant":
        return dataclasses.replace(gate, threshold=0.0, site=None, features=())
    site = gate.site or (edit.site if own else None)
    return dataclasses.replace(gate, site=site, features=gate.features or features)


def _order(site: Site) -> tuple[int, int]:
    """By which sites are sorted as a pass reaches them."""
    return site.layer, SITE_KINDS.index(site.name.rpartition("hook_")[2])
