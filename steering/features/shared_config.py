"""Settings of `sparsteer features shared`; nothing here imports torch."""

from dataclasses import dataclass

from ...sae.common.paths import FilePath
from ...sae.common.validation import require_in_range, require_integer


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """Count the features that share the direction of a given one, here and in other runs."""

    run: FilePath
    """Folder of the run."""

    feature: int
    """Number of the feature, from 0."""

    among: tuple[FilePath, ...] = ()
    """Folders of other runs of the same site, such as wider ones, to look in, too."""

    least_cosine: float = 0.5
    """Cosine of decoder directions from which on features share one."""

    seed: int = 0
    """Seed of the features that the given one is held against."""

    def __post_init__(self) -> None:
        require_integer("feature", self.feature, least=0)
        require_in_range("least_cosine", self.least_cosine, low=0.0, high=1.0, above_low=True)
        require_integer("seed", self.seed, least=0)
