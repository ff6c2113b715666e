"""How many latents of a dictionary share a direction: what one latent becomes in wider ones.

In a wider dictionary one latent often comes back in several parts (feature splitting, Bricken et
al. 2023, Towards Monosemanticity). Directions alone do not say that the parts fire on the same
texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from .shared_config import SharedConfig

_SAMPLE = 256
"""Latents of the first dictionary that the given one is compared with."""


@dataclass(frozen=True)
class SharingLatent:
    """A latent whose decoder row points nearly where the given one's does."""

    feature: int
    cosine: float


@dataclass(frozen=True)
class SharedDirection:
    """The latents of one dictionary that share a direction."""

    n_latents: int
    count: int
    """Latents with at least the wanted cosine."""
    latents: tuple[SharingLatent, ...]
    """They, the nearest first."""
    nearest: SharingLatent | None
    """The nearest latent, be its cosine large enough or not; None if there is no other."""
    mean_direction_cosine: float | None
    """Of the given direction with the mean direction of these latents; None if there are none."""


@torch.no_grad()
def shared_direction(
    direction_D: Float[Tensor, "D"],
    W_dec_FD: Float[Tensor, "F D"],
    *,
    least_cosine: float = 0.5,
    besides: int | None = None,
) -> SharedDirection:
    """Which decoder rows of a dictionary share a direction.

    Args:
        direction_D: of any length but 0, in units of the residual stream.
        W_dec_FD: decoder rows; one of zeros shares nothing.
        least_cosine: of a row that shares it; 0.5 as a default, which nothing derives.
        besides: the latent whose own row it is, which does not count.

    Raises:
        InputError: the widths differ, or the direction is 0.
    """
    if direction_D.shape[-1] != W_dec_FD.shape[-1]:
        raise InputError(
            f"a direction of width {direction_D.shape[-1]} and decoder rows of width "
            f"{W_dec_FD.shape[-1]} do not compare; give dictionaries of one site"
        )
    if not direction_D.any():
        raise InputError("the direction is 0, which points nowhere; give another latent")
    cosines_F = _cosines(direction_D[None].to(W_dec_FD.device), W_dec_FD)[0]
    if besides is not None:
        cosines_F[besides] = -torch.inf
    order_F = cosines_F.argsort(descending=True, stable=True)
    n_sharing = int((cosines_F >= least_cosine).sum())
    n_others = len(cosines_F) - (besides is not None)
    first = [
        SharingLatent(int(feature), float(cosines_F[feature]))
        for feature in order_F[: min(max(n_sharing, 1), n_others)]
    ]
    sharing = tuple(first[:n_sharing])
    mean = None
    if sharing:
        mean_D = mean_direction(W_dec_FD, [latent.feature for latent in sharing])
        mean = float(_cosines(direction_D[None].to(mean_D.device), mean_D[None])[0, 0])
    return SharedDirection(
        n_latents=len(W_dec_FD),
        count=len(sharing),
        latents=sharing,
        nearest=first[0] if first else None,
        mean_direction_cosine=mean,
    )


@torch.no_grad()
def mean_direction(W_dec_FD: Float[Tensor, "F D"], latents: Sequence[int]) -> Float[Tensor, "D"]:
    """The direction, of norm 1, of the mean of some latents' decoder rows, each brought to norm 1.

    Raises:
        InputError: there are no latents, or their rows cancel.
    """
    if not latents:
        raise InputError("no latent is given, so there is no mean direction; name at least one")
    unit_KD = torch.nn.functional.normalize(W_dec_FD[list(latents)].detach().double(), dim=-1)
    mean_D = unit_KD.mean(0)
    if float(row_norms(mean_D)) < 1e-9:
        raise InputError(
            f"the decoder rows of {list(latents)} cancel, so they have no mean direction"
        )
    return torch.nn.functional.normalize(mean_D, dim=-1).to(W_dec_FD.dtype)


@torch.no_grad()
def mean_sharing(
    one_FD: Float[Tensor, "F D"],
    other_GD: Float[Tensor, "G D"],
    *,
    least_cosine: float = 0.5,
    same: bool = False,
    seed: int = 0,
) -> float:
    """How many rows of another dictionary share the direction of a row of the first, on average
    over 256 rows at random: what one latent's count is to be held against.

    Args:
        one_FD, other_GD: decoder rows.
        least_cosine: as of `shared_direction`.
        same: the two are the same dictionary, in which a row's own does not count.
        seed: of the rows that are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(one_FD), generator=generator)[:_SAMPLE].to(one_FD.device)
    sharing_SG = _cosines(one_FD[drawn], other_GD.to(one_FD.device)) >= least_cosine
    if same:
        sharing_SG[torch.arange(len(drawn), device=drawn.device), drawn] = False
    return float(sharing_SG.sum(1).double().mean())


def shared_directions(
    config: SharedConfig, *, say: Callable[[str], None] = lambda sentence: None
) -> dict[str, Any]:
    """What `sparsteer features shared` shows: who shares the direction of a run's feature.

    Returns:
        `run`, `feature`, `least_cosine`, and `dictionaries`: of the run itself and then of each of
        the others `run`, the fields of `SharedDirection`, and `mean_count`, how many latents share
        the direction of a latent of the run on average.

    Raises:
        InputError: there is no such run or feature, or dictionaries are of other sites.
    """
    own = SparseAutoencoder.load(config.run)
    if config.feature >= own.config.n_latents:
        raise InputError(
            f"there is no feature {config.feature} in {config.run}; its features are 0 to "
            f"{own.config.n_latents - 1}",
            field="feature",
        )
    dictionaries: list[dict[str, Any]] = []
    for number, run in enumerate((config.run, *config.among)):
        if number:
            say(f"reading {run}")
        is_own = number == 0
        other = own if is_own else SparseAutoencoder.load(run)
        require_same_site(own, config.run, other, run)
        found = shared_direction(
            own.W_dec[config.feature],
            other.W_dec,
            least_cosine=config.least_cosine,
            besides=config.feature if is_own else None,
        )
        mean = mean_sharing(
            own.W_dec, other.W_dec, least_cosine=config.least_cosine, same=is_own, seed=config.seed
        )
        dictionaries.append({"run": run, **asdict(found), "mean_count": mean})
    return {
        "run": config.run,
        "feature": config.feature,
        "least_cosine": config.least_cosine,
        "dictionaries": dictionaries,
    }


def require_same_site(
    own: SparseAutoencoder, run: str, other: SparseAutoencoder, other_run: str
) -> None:
    """Raise an InputError if the autoencoders of two runs are of other widths of the residual
    stream or of other sites, where directions do not compare."""
    if own.config.d_model != other.config.d_model:
        raise InputError(
            f"{run} is of width {own.config.d_model} and {other_run} of {other.config.d_model}, "
            "which do not compare; give dictionaries of one site"
        )
    sites = [sae.origin and (sae.origin.target_site or sae.origin.site) for sae in (own, other)]
    if all(sites) and sites[0] != sites[1]:
        raise InputError(
            f"{run} is of {sites[0]} and {other_run} of {sites[1]}, where directions mean other "
            "things; give dictionaries of one site"
        )


def _cosines(one_BD: Float[Tensor, "B D"], other_FD: Float[Tensor, "F D"]) -> Float[Tensor, "B F"]:
    unit_BD = torch.nn.functional.normalize(one_BD.detach().float(), dim=-1)
    return unit_BD @ torch.nn.functional.normalize(other_FD.detach().float(), dim=-1).T
