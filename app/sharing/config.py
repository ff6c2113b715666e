"""What of a run is shared, and how; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_choice,
    require_given,
    require_integer,
    require_positive_integer,
)

Layout = Literal["static", "neuronpedia", "saedashboard"]


@dataclass(frozen=True, kw_only=True)
class ShareConfig:
    """Write features of a run into a folder that needs no sparsteer to be read."""

    run: FilePath
    """Folder of the run, which has a feature index."""

    static: FilePath
    """Folder to write; not there yet, or empty."""

    picks: bool = False
    """Only the picks that are not rejected. That is also done by default where there are any; else
    the 100 most interesting features are written."""

    feature: tuple[int, ...] = ()
    """Numbers of the features to write."""

    all: bool = False
    """Every feature that ever fired."""

    format: Layout = "static"
    """static is a page, index.html, that a browser opens from disk; neuronpedia the files that its
    import reads; saedashboard the batches of SAEDashboard's runner."""

    examples: int = 8
    """Examples of a feature's largest activations, and a fourth as many of each of its quantiles,
    its random firings and its near misses."""

    model_id: str | None = None
    """Name of the language model in Neuronpedia's and SAEDashboard's layouts; by default the last
    part of its name."""

    source_set: str | None = None
    """Name of the set of autoencoders in those layouts, such as res-16k; by default the kind of
    site and the number of latents."""

    force: bool = False
    """Replace another such export that is in the folder."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, get_args(Layout))
        require_positive_integer("examples", self.examples)
        given = [name for name in ("picks", "feature", "all") if getattr(self, name)]
        if len(given) > 1:
            raise InputError(
                f"{given[1]} cannot stand beside --{given[0]}; give one of them", field=given[1]
            )
        for number in self.feature:
            require_integer("feature", number, least=0)
            if self.feature.count(number) > 1:
                raise InputError(
                    f"feature names {number} more than once; give each number once",
                    field="feature",
                )
        for name in ("model_id", "source_set"):
            if (value := getattr(self, name)) is None:
                continue
            require_given(name, value)
            if self.format == "static":
                raise InputError(
                    f"{name} belongs to --format neuronpedia or saedashboard; leave it out",
                    field=name,
                )
            if value in (".", "..") or any(c in value for c in "/\\\0") or value.startswith("."):
                raise InputError(
                    f"{name} is {value!r}, but names a folder; give letters, digits and dashes",
                    field=name,
                )
