"""Lin-AcT and its relatives: maps of single coordinates, fitted in closed form at each site."""

from collections.abc import Mapping, Sequence

import torch

from ...sae.autoencoder import SparseAutoencoder
from ...sae.language_model.model import LanguageModel
from .affine_maps import AffineMap, aura_map, gaussian_map, linear_map, mean_map, with_support
from .coordinates import Coordinates, SiteMap, coordinates_at
from .fitted import Fitted
from .neutral import with_neutral
from .trained_capture import Pool, in_order
from .trained_config import LinActConfig
from .transport_report import transport_report
from .two_sets import samples, two_sets

_MAPS = {"linear": linear_map, "mean": mean_map, "gaussian": gaussian_map, "aura": aura_map}


@torch.no_grad()
def fit_lin_act(
    model: LanguageModel,
    source: Sequence[str | Sequence[int]],
    target: Sequence[str | Sequence[int]],
    config: LinActConfig,
    *,
    saes: Mapping[str, SparseAutoencoder] | None = None,
    neutral: Sequence[str] = (),
) -> Fitted:
    """Fit maps that carry the activations of the source texts to those of the target texts.

    The sets need not be paired, nor of one size: each coordinate's sorted values face each other
    (Lin-AcT, Rodriguez et al., arXiv 2410.23054, ICLR 2025). Target texts are always read from the
    unedited model.

    Args:
        model: the language model.
        source: texts as they are not wanted (the negative ones), or token ids without BOS.
        target: texts as they are wanted (the positive ones).
        config: which map, where and how.
        saes: an autoencoder for some of the sites, of which latents take the place of the
            residual's coordinates.
        neutral: texts for the cost that is reported; none are needed.

    Returns:
        A `diagonal` edit for each site, or one of `latents` where it has an autoencoder. The report
        has the fraction of (token, coordinate) elements of the source texts that the maps move, and
        in its details, by site, the mean transport cost of a coordinate in squared standard
        deviations of the source before the maps and with them, `cost_before` and `cost_after`, on
        held-out texts if there are any.

    Raises:
        InputError: there are too few texts, no such site, or an autoencoder does not fit.
    """
    sites = in_order(model, config.sites)
    sets = two_sets(model, source, target, config)
    coordinates = coordinates_at(model, sites, saes, [*sets.source, *sets.target])
    pool: Pool = "max" if config.map == "aura" else config.pool
    edits: dict[str, SiteMap] = {}
    fitted: list[tuple[Coordinates, AffineMap]] = []
    moved: dict[str, float] = {}
    for each in coordinates:
        before = edits if config.order == "incremental" else {}
        tokens_NM = samples(model, each, sets.source, "none", before)
        source_NM = tokens_NM if pool == "none" else samples(model, each, sets.source, pool, before)
        mapped = _MAPS[config.map](source_NM, samples(model, each, sets.target, pool))
        if config.has_support:
            mapped = with_support(mapped, source_NM, config.support_quantile)
        moved[each.site] = float(mapped.reaches(tokens_NM).double().mean())
        fitted.append((each, mapped))
        edits = {**edits, each.site: SiteMap(each, mapped)}
    report = transport_report(
        model,
        f"lin_act ({config.map})",
        list(edits.values()),
        sets,
        moved=moved,
        details={},
    )
    edits_of_sites = tuple(each.fitted(mapped) for each, mapped in fitted)
    return with_neutral(
        Fitted(method="lin_act", edits=edits_of_sites, report=report),
        model,
        neutral,
        saes=saes,
        batch_size=config.batch_size,
        max_length=config.max_length,
    )
