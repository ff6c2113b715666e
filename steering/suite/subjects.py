"""What a suite measures: the autoencoders that are named, and baselines beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...sae.config import Origin
from ...sae.language_model.names import lasting_name
from ...training.data.cache.reader import ActivationCache
from ...training.evaluation.baselines import baseline, mean_l0
from ...training.evaluation.config import EvalSettings
from ...training.evaluation.subjects import Subject, opened_subject, subject_of
from ...training.run_places import run_of, short_names
from .config import SuiteSettings

_ALIKE = 0.1
"""An L0 that differs by less than this fraction from another's has no baseline of its own."""
_ROWS_OF_L0 = 8_192


def opened_subjects(
    saes: Sequence[str],
    cache: ActivationCache,
    settings: EvalSettings,
    suite: SuiteSettings,
    device: torch.device,
    say: Callable[[str], None],
) -> list[tuple[str, Subject]]:
    """The autoencoders, each once, and the baselines beside them, each with a short name.

    At each site at which an autoencoder, not a transcoder, stands there are baselines of their own.

    Raises InputError as `opened_subject`.
    """
    paths = list(dict.fromkeys(saes))
    named = [opened_subject(path, cache, settings, device, say) for path in paths]
    names = short_names([run_of(Path(path)) for path in paths])
    found = list(zip(names, named, strict=True))
    kinds = [kind for kind in dict.fromkeys(suite.baselines) if kind != "none"]
    sites = list(dict.fromkeys(one.site for one in named if one.target_site is None))
    for site in sites if kinds else []:
        own = [one for one in named if one.site == site and one.target_site is None]
        say(f"fitting {', '.join(kinds)} to training rows of {site}")
        at = f" at {site}" if len(sites) > 1 else ""
        found += [
            (f"{name}{at}", one)
            for name, one in _baselines(kinds, own, cache, settings, suite, site, device)
        ]
    return found


def _baselines(
    kinds: Sequence[str],
    beside: Sequence[Subject],
    cache: ActivationCache,
    settings: EvalSettings,
    suite: SuiteSettings,
    site: str,
    device: torch.device,
) -> list[tuple[str, Subject]]:
    rows_ND = cache.sample(min(settings.rows, cache.n_train), site=site, seed=suite.seed).to(device)
    wanted = suite.baseline_l0 or l0s_of(beside, rows_ND[:_ROWS_OF_L0])
    n_latents = max(one.sae.config.n_latents for one in beside)
    origin = Origin(
        model=cache.model,
        site=site,
        weights_hash=cache.weights_hash,
        model_dtype=cache.model_dtype,
        dataset=lasting_name(cache.dataset),
        context_length=cache.context_length,
        prepends_bos=cache.prepends_bos,
    )
    # Of both signs of a component one at most is positive.
    of_kind = {"raw": [0], "pca": sorted({min(l0, cache.d_model) for l0 in wanted})}
    found: list[tuple[str, Subject]] = []
    for kind in kinds:
        for l0 in of_kind.get(kind, wanted):
            name = kind if kind == "raw" else f"{kind} L0 {l0}"
            sae = baseline(
                kind,
                rows_ND,
                l0=max(l0, 1),
                n_latents=max(n_latents, l0),
                seed=suite.seed,
                origin=origin,
            )
            subject = subject_of(sae.to(device), name, cache, settings)
            found.append((name, Subject(name, sae, subject.site, None, baseline=kind)))
    return found


def l0s_of(subjects: Sequence[Subject], rows_ND: torch.Tensor) -> list[int]:
    """The L0 of each autoencoder, rising: k where it has one, else measured; those that all but
    agree with a smaller one are left out."""
    found: list[int] = []
    for subject in subjects:
        k = subject.sae.config.latents_of_row
        found.append(k or max(1, round(mean_l0([subject.sae], rows_ND)[0])))
    kept: list[int] = []
    for l0 in sorted(found):
        if not kept or l0 > kept[-1] * (1 + _ALIKE):
            kept.append(l0)
    return kept
