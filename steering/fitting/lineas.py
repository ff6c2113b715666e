"""LinEAS: maps of single coordinates at several sites, trained together through the model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.fingerprint import sae_fingerprint
from ...sae.language_model.model import LanguageModel
from .affine_maps import transport_cost
from .coordinates import SiteMap, coordinates_at, mapped_coordinates
from .fitted import Fitted
from .lineas_state import LinEASState, TrainedMap, fingerprint_of
from .neutral import with_neutral
from .trained_capture import TextBatch, frozen, in_order, pooled, text_batches
from .trained_config import LinEASConfig
from .transport_report import deviations, transport_report
from .two_sets import samples, two_sets

Progress = Callable[[int, int, float], None]
"""Told of each step: steps done, steps in all, and the loss."""


def fit_lineas(
    model: LanguageModel,
    source: Sequence[str | Sequence[int]],
    target: Sequence[str | Sequence[int]],
    config: LinEASConfig,
    *,
    saes: Mapping[str, SparseAutoencoder] | None = None,
    neutral: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    progress: Progress = lambda done, total, loss: None,
) -> Fitted:
    """Train maps that carry the source texts' activations to those of the target texts at every
    site at once, each seeing what the others do (LinEAS, Rodriguez et al., arXiv 2503.10679).

    The loss is the squared 2-Wasserstein distance of each coordinate between the texts' means over
    content tokens, source texts with all maps switched on and target texts in the unedited model;
    the sum over coordinates and sites, as in the paper. After each gradient step the sparse group
    lasso takes a proximal step of the length of the learning rate.

    Args:
        model, source, target, saes, neutral: as of `fit_lin_act`.
        config: where, how long and how.
        checkpoint: folder for checkpoints. If it holds one of the same texts, settings and model,
            training goes on from there, and comes to the same bit for bit.
        progress: told of each step.

    Returns:
        A `diagonal` edit for each site with a map that is not the identity, or one of `latents`
        where it has an autoencoder. The report is as of `fit_lin_act`; its details also have the
        loss at the beginning and at the end for a coordinate, `loss_before` and `loss_after`, on
        the texts that were trained on; with `texts_per_step` the first is of one step's texts.

    Raises:
        InputError: as `fit_lin_act`; the checkpoint is of something else; or the loss is NaN.
    """
    sites = in_order(model, config.sites)
    sets = two_sets(model, source, target, config)
    with frozen(model, *(saes or {}).values()):
        coordinates = coordinates_at(model, sites, saes, [*sets.source, *sets.target])
        goals = {each.site: samples(model, each, sets.target, "mean") for each in coordinates}
        trained: dict[str, TrainedMap] = {}
        for each in coordinates:
            clean_NM = samples(model, each, sets.source, "mean")
            unit_M, center_M = deviations(clean_NM), clean_NM.mean(0)
            if not config.standardize:
                unit_M, center_M = torch.ones_like(unit_M), torch.zeros_like(center_M)
            trained[each.site] = TrainedMap(unit_M, center_M)
        units = {name: each.unit_M for name, each in trained.items()}
        maps = [SiteMap(each, trained[each.site]) for each in coordinates]
        state = LinEASState(trained, config)
        weights = [model.weights_hash, *(sae_fingerprint(s) for s in (saes or {}).values())]
        fingerprint = fingerprint_of(config, sets.rows, weights)
        folder = None if checkpoint is None else Path(checkpoint)
        if folder is not None and folder.exists():
            state.load(folder, fingerprint)
        objective = Objective(model, maps, units, sets.rows[0], goals, config)
        while state.step < state.total:
            loss = objective.backward(state.step)
            state.update(loss)
            progress(state.step, state.total, loss)
            due = state.step % config.checkpoint_every == 0 or state.step == state.total
            if folder is not None and due:
                state.save(folder, fingerprint)
    n_coordinates = sum(each.size for each in coordinates)
    affine = {name: each.affine() for name, each in trained.items()}
    moved = {
        name: float(((each.w_D != 1) | (each.b_D != 0)).double().mean())
        for name, each in affine.items()
    }
    final = [SiteMap(each, affine[each.site]) for each in coordinates]
    report = transport_report(
        model,
        "lineas",
        final,
        sets,
        moved=moved,
        details={
            "loss_before": state.losses[0] / n_coordinates,
            "loss_after": objective.value() / n_coordinates,
            "steps": state.total,
        },
    )
    edits = tuple(each.fitted(affine[each.site]) for each in coordinates if moved[each.site])
    return with_neutral(
        Fitted(method="lineas", edits=edits, report=report),
        model,
        neutral,
        saes=saes,
        batch_size=config.batch_size,
        max_length=config.max_length,
    )


class Objective:
    """The loss of maps on source texts, and its gradients."""

    def __init__(
        self,
        model: LanguageModel,
        maps: Sequence[SiteMap],
        units: Mapping[str, Float[Tensor, "_"]],
        source_rows: Sequence[Sequence[int]],
        goals: Mapping[str, Float[Tensor, "M _"]],
        config: LinEASConfig,
    ) -> None:
        """Take the maps, the unit of each coordinate by site, the token ids of the source texts,
        the pooled coordinates of the target texts by site, and the settings."""
        self._model = model
        self._maps = maps
        self._units = units
        self._rows = source_rows
        self._goals = goals
        self._config = config

    def backward(self, step: int) -> float:
        """Add the loss's gradients to those of the maps; the loss. The texts are those of the
        step."""
        rows, goals = self._drawn(step)
        batches = text_batches(self._model, rows, self._config.batch_size)
        if len(batches) == 1:
            loss = self._loss(self._pooled(batches[0]), goals)
            loss.backward()  # pyright: ignore[reportUnknownMemberType] - untyped builtin
            return float(loss.detach())
        # The loss joins all texts, whose passes need not be held at once: its gradient by what is
        # pooled of each comes first, and is then sent back through the pass of each.
        with torch.no_grad():
            parts = [self._pooled(batch) for batch in batches]
        joined = {
            name: torch.cat([part[name] for part in parts]).requires_grad_() for name in goals
        }
        loss = self._loss(joined, goals)
        gradients = torch.autograd.grad(loss, list(joined.values()))
        starts = [0]
        for batch in batches:
            starts.append(starts[-1] + len(batch.texts))
        for number, batch in enumerate(batches):
            part = slice(starts[number], starts[number + 1])
            again = self._pooled(batch)
            torch.autograd.backward(
                [again[name] for name in joined], [gradient[part] for gradient in gradients]
            )
        return float(loss.detach())

    @torch.no_grad()
    def value(self) -> float:
        """The loss on all texts as the maps are now."""
        batches = text_batches(self._model, self._rows, self._config.batch_size)
        parts = [self._pooled(batch) for batch in batches]
        joined = {name: torch.cat([part[name] for part in parts]) for name in self._goals}
        return float(self._loss(joined, self._goals))

    def _pooled(self, batch: TextBatch) -> dict[str, Tensor]:
        """The mean mapped coordinates of each text, by site."""
        found = mapped_coordinates(self._model, self._maps, batch)
        return {name: pooled(z_BLM, batch.content_BL, "mean") for name, z_BLM in found.items()}

    def _loss(self, found: Mapping[str, Tensor], goals: Mapping[str, Tensor]) -> Tensor:
        by_site = [
            transport_cost(found[name] / unit_M, goals[name] / unit_M).sum()
            for name, unit_M in self._units.items()
        ]
        return torch.stack(by_site).sum()

    def _drawn(self, step: int) -> tuple[Sequence[Sequence[int]], Mapping[str, Tensor]]:
        """The texts of a step, which depend on the seed and the step alone."""
        size = self._config.texts_per_step
        if size is None:
            return self._rows, self._goals
        draw = torch.Generator().manual_seed(self._config.seed * 1_000_003 + step)
        own = torch.randperm(len(self._rows), generator=draw)[:size]
        n_goals = len(next(iter(self._goals.values())))
        goal = torch.randperm(n_goals, generator=draw)[:size]
        return [self._rows[int(number)] for number in own], {
            name: rows[goal.to(rows.device)] for name, rows in self._goals.items()
        }
