"""What others measured on the synthetic benchmark, as published; imports no torch.

Figures: means and standard deviations over seeds from SAELens' docs/synth_sae_bench.md (MIT), the
results of arXiv 2602.14687: SynthSAEBench-16k version 2, 4,096 latents, 200 million rows, batches
of 1,024, learning rate 3e-4.
"""

from dataclasses import asdict, dataclass
from typing import Any

from ....sae.config import SAEConfig
from .config import SIZES, GroundTruthSettings

SOURCE = (
    "SAELens docs/synth_sae_bench.md (arXiv 2602.14687): SynthSAEBench-16k v2, means and standard "
    "deviations over seeds"
)


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One architecture at one L0; of each measure the mean and the standard deviation."""

    architecture: str
    l0: int
    f1: tuple[float, float]
    mcc: tuple[float, float]
    uniqueness: tuple[float, float]
    explained_variance: tuple[float, float]


def _row(architecture: str, l0: int, *figures: float) -> PublishedRow:
    f1, mcc, uniqueness, variance = zip(figures[::2], figures[1::2], strict=True)
    return PublishedRow(
        architecture=architecture,
        l0=l0,
        f1=f1,
        mcc=mcc,
        uniqueness=uniqueness,
        explained_variance=variance,
    )


PUBLISHED = (
    _row("BatchTopK", 25, 0.7316, 0.0010, 0.7574, 0.0003, 0.9837, 0.0015, 0.7923, 0.0003),
    _row("Matryoshka", 25, 0.8793, 0.0021, 0.7927, 0.0006, 0.9987, 0.0005, 0.7792, 0.0004),
    _row("MatchPursuit", 25, 0.4464, 0.0044, 0.6930, 0.0030, 0.8281, 0.0069, 0.8351, 0.0003),
    _row("Standard L1", 25, 0.5562, 0.0020, 0.6039, 0.0012, 0.8976, 0.0021, 0.7654, 0.0001),
    _row("JumpReLU", 25, 0.7317, 0.0034, 0.7527, 0.0009, 0.9885, 0.0010, 0.7951, 0.0004),
    _row("BatchTopK", 20, 0.8183, 0.0011, 0.7526, 0.0007, 0.9760, 0.0028, 0.7889, 0.0002),
    _row("Matryoshka", 20, 0.8601, 0.0016, 0.7455, 0.0021, 0.9874, 0.0020, 0.7699, 0.0002),
    _row("MatchPursuit", 20, 0.4439, 0.0024, 0.6748, 0.0028, 0.7552, 0.0026, 0.8267, 0.0003),
    _row("Standard L1", 20, 0.5777, 0.0012, 0.5834, 0.0015, 0.8528, 0.0055, 0.7501, 0.0009),
    _row("JumpReLU", 20, 0.8241, 0.0041, 0.7434, 0.0015, 0.9781, 0.0029, 0.7906, 0.0005),
)
"""Matryoshka is BatchTopK with prefixes of 128, 512 and 2,048 latents."""


def published_beside(sae: SAEConfig, settings: GroundTruthSettings) -> dict[str, Any] | None:
    """The published rows to set beside results, and in what their settings differ.

    Args:
        sae: the autoencoder's configuration at the size.
        settings: at which size it was measured.

    Returns:
        `source`, `rows` (those at its L0, all if there are none), `same_kind`, the published
        architecture nearest to the autoencoder or None, `settings_are_equal`, which they never
        wholly are, and `differences` in words; None at another size than 16k.
    """
    if settings.size != "16k":
        return None
    rows = [row for row in PUBLISHED if row.l0 == settings.wanted_l0] or list(PUBLISHED)
    differences = _differences(settings)
    return {
        "source": SOURCE,
        "same_kind": _same_kind(sae),
        "settings_are_equal": not differences,
        "differences": differences,
        "rows": [asdict(row) for row in rows],
    }


def _same_kind(sae: SAEConfig) -> str | None:
    if sae.prefixes:
        return "Matryoshka" if sae.activation == "batch_topk" else None
    return {"batch_topk": "BatchTopK", "jumprelu": "JumpReLU"}.get(sae.activation)


def _differences(settings: GroundTruthSettings) -> list[str]:
    size = SIZES["16k"]
    differences = [
        "the features are drawn anew, alike in distribution to the published ones, not the same",
        "the learning rate rises over the first twentieth of the steps and falls to 0 over the "
        "last fifth, where the published one is constant",
        "initialization, scaling of the rows, and the loss that revives dead latents are this "
        "library's",
    ]
    if settings.wanted_samples != size.samples:
        differences.append(
            f"{settings.wanted_samples:,} rows, where {size.samples:,} are published"
        )
    if settings.wanted_lr != size.lr:
        differences.append(f"learning rate {settings.wanted_lr:g}, where {size.lr:g} is published")
    if settings.wanted_l0 not in {row.l0 for row in PUBLISHED}:
        differences.append(f"L0 {settings.wanted_l0}, where 20 and 25 are published")
    return differences
