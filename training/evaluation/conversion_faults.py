"""Why an autoencoder fits rows badly: the usual mistakes of a conversion, undone one by one.

An autoencoder that was converted wrongly, or is read at another site, still encodes; only its
figures are bad. Each usual mistake is undone in turn, and what makes the figures right is named.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.config import ReLUConfig, SAEConfig, TopKConfig
from ...sae.metrics import measure_rows

_ROWS_TRIED = 1024
_BAD_FVU = 0.6
"""Published autoencoders leave .05 to .5 of the variance; above this something is likely wrong."""
_OFF_L0 = 2.0
"""How many times larger or smaller than stated an L0 may be."""
_USUAL_K = (16, 32, 64, 128, 256)
_BETTER = 0.85
_BETTER_BY = 0.02
"""An attempt counts if it leaves no more than this much of the FVU, and is so much below it."""


class Cause(NamedTuple):
    """A likely reason for bad figures."""

    cause: str
    """One sentence: what was changed, and what to do."""
    fvu: float
    """With the change."""
    l0: float
    """With the change."""


class Rows(NamedTuple):
    """Activations that an autoencoder reads, and what a transcoder is to predict from them."""

    x: Float[Tensor, "N D"]
    target: Float[Tensor, "N D"] | None = None

    def first(self, n_rows: int) -> "Rows":
        """As many of them, evenly spread."""
        chosen = torch.arange(min(n_rows, len(self.x))) * len(self.x) // n_rows
        if len(self.x) <= n_rows:
            return self
        return Rows(self.x[chosen], None if self.target is None else self.target[chosen])


class Attempt(NamedTuple):
    """One mistake, undone."""

    sentence: str
    """What that means, and what to do."""
    sae: SparseAutoencoder
    rows: Rows


def looks_wrong(figures: Mapping[str, float | int], stated_l0: float | None = None) -> bool:
    """Whether the figures are so bad that the autoencoder is likely read in a wrong way.

    Args:
        figures: `fvu` and `l0`.
        stated_l0: the L0 that its files give it.
    """
    return not figures["fvu"] <= _BAD_FVU or _is_off(figures["l0"], stated_l0)


def _is_off(l0: float, stated: float | None) -> bool:
    return stated is not None and not stated / _OFF_L0 <= l0 <= stated * _OFF_L0


def likely_causes(
    sae: SparseAutoencoder,
    rows: Rows,
    *,
    stated_l0: float | None = None,
    elsewhere: Mapping[str, Rows] | None = None,
) -> list[Cause]:
    """What makes the figures clearly better, the best first; empty if nothing that is tried does.

    A site that is a layer off costs little, so this tells more than `looks_wrong`.

    Args:
        sae: the autoencoder.
        rows: on which it is measured; up to 1,024 of them are used.
        stated_l0: the L0 that its files give it.
        elsewhere: the same tokens' rows as they would be otherwise, by a sentence that says how and
            what to do: of another site, or of contexts without BOS.
    """
    rows = rows.first(_ROWS_TRIED)
    before_fvu, before_l0 = _measured(sae, rows)
    attempts = [
        Attempt(text, sae, other.first(_ROWS_TRIED)) for text, other in (elsewhere or {}).items()
    ]
    attempts += _converted_otherwise(sae, rows, stated_l0)
    found: list[Cause] = []
    for attempt in attempts:
        fvu, l0 = _measured(attempt.sae, attempt.rows)
        fits_l0 = not _is_off(l0, stated_l0)
        better = fvu <= min(_BETTER * before_fvu, before_fvu - _BETTER_BY, 1.0)
        if fits_l0 and (better or (_is_off(before_l0, stated_l0) and fvu <= before_fvu)):
            found.append(Cause(attempt.sentence, fvu, l0))
    return sorted(found, key=lambda cause: cause.fvu)


def _measured(sae: SparseAutoencoder, rows: Rows) -> tuple[float, float]:
    given = (part.to(sae.W_dec.device) for part in rows if part is not None)
    result = measure_rows(sae, *given).result()
    return float(result["fvu"]), float(result["l0"])


def _converted_otherwise(
    sae: SparseAutoencoder, rows: Rows, stated_l0: float | None
) -> Iterator[Attempt]:
    config = sae.config
    mean_norm = float(row_norms(rows.x.float()).mean())
    if config.normalize_activations == "none" and mean_norm > 0 and not config.transcoder:
        factor = config.d_model**0.5 / mean_norm
        yield Attempt(
            "its input was scaled in training to a mean norm of sqrt(D), which is not folded into "
            f"its weights: import it with --input-scale {factor:.4g}",
            with_input_scale(sae, factor),
            rows,
        )
        for how in ("layer_norm", "constant_norm_rescale"):
            yield Attempt(
                "its rows were normalized in training: import it with "
                f"--normalize-activations {how}",
                changed(sae, normalize_activations=how),
                rows,
            )
    elif config.normalize_activations != "none":
        yield Attempt(
            "its rows were not normalized in training: import it with --normalize-activations none",
            changed(sae, normalize_activations="none"),
            rows,
        )
    if not config.transcoder:
        flipped = not config.apply_b_dec_to_input
        does = "subtracts" if flipped else "does not subtract"
        yield Attempt(
            f"its encoder {does} b_dec: its configuration needs apply_b_dec_to_input "
            f"{str(flipped).lower()}",
            changed(sae, apply_b_dec_to_input=flipped),
            rows,
        )
    norms_F = sae.decoder_norms()
    if not torch.allclose(norms_F, torch.ones_like(norms_F), rtol=1e-3):
        yield Attempt(
            "its decoder's norms are not folded: its configuration needs "
            "rescale_acts_by_decoder_norm true, or its codes are in units of them",
            _with_decoder_norms_folded(sae),
            rows,
        )
    if config.latents_of_row is None and (k := _likely_k(sae, rows, stated_l0)) is not None:
        known = f"k {k}" if stated_l0 is not None else f"a k that it does not state, {k} or near it"
        yield Attempt(
            f"it keeps the largest latents of a row: its configuration needs the activation topk "
            f"with {known}, not {config.activation}",
            _as_topk(sae, k),
            rows,
        )


def _likely_k(sae: SparseAutoencoder, rows: Rows, stated_l0: float | None) -> int | None:
    """How many latents of a row are kept if it is topk; None if it cannot be.

    Where no L0 is stated it is the usual k with the lowest FVU, and only of a relu: the latents of
    jumprelu that do not exceed their thresholds would lower its FVU, too.
    """
    if stated_l0 is not None:
        return round(stated_l0) if 1 <= stated_l0 < sae.config.n_latents else None
    if not isinstance(sae.config, ReLUConfig):
        return None
    usual = [k for k in _USUAL_K if k < sae.config.n_latents]
    return min(usual, key=lambda k: _measured(_as_topk(sae, k), rows)[0], default=None)


@torch.no_grad()
def with_input_scale(sae: SparseAutoencoder, factor: float) -> SparseAutoencoder:
    """An autoencoder that reads rows times a factor, and gives back what it makes of them divided
    by it: as one trained on scaled rows must be used."""
    scaled = changed(sae)
    scaled.input_scale.mul_(factor)
    scaled.input_center.mul_(factor)
    return scaled


@torch.no_grad()
def _with_decoder_norms_folded(sae: SparseAutoencoder) -> SparseAutoencoder:
    folded, norms_F = changed(sae), sae.decoder_norms()
    folded.W_enc.mul_(norms_F[:, None])
    folded.b_enc.mul_(norms_F)
    folded.W_dec.div_(norms_F.clamp(min=1e-8)[:, None])
    return folded


def _as_topk(sae: SparseAutoencoder, k: int) -> SparseAutoencoder:
    own = {field.name for field in dataclasses.fields(SAEConfig)}
    shared = {name: value for name, value in vars(sae.config).items() if name in own}
    return _like(sae, TopKConfig(**shared, k=k))


def changed(sae: SparseAutoencoder, **options: object) -> SparseAutoencoder:
    """A copy of an autoencoder with some fields of its configuration changed."""
    return _like(sae, dataclasses.replace(sae.config, **options))


def _like(sae: SparseAutoencoder, config: SAEConfig) -> SparseAutoencoder:
    """An autoencoder of another configuration with a copy of the weights that both have."""
    made = SparseAutoencoder(config, origin=sae.origin).to(sae.W_dec)
    state = made.state_dict()
    made.load_state_dict(
        state | {name: tensor for name, tensor in sae.state_dict().items() if name in state}
    )
    return made
