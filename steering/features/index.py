"""Read a feature index: one feature in milliseconds, without the language model's files."""

from collections.abc import Iterator
from functools import cached_property
from mmap import mmap
from pathlib import Path
from tokenize import TokenError
from typing import cast

import numpy as np

from ...sae.common.checksums import record_of, require_as_written, require_sizes
from ...sae.common.errors import InputError, NotFound
from ...sae.common.shipped import is_shipped
from .feature import CoActivation as CoActivation
from .feature import Example as Example
from .feature import Feature as Feature
from .feature import Neighbor as Neighbor
from .feature import QuantileExamples as QuantileExamples
from .feature import RankedToken as RankedToken
from .layout import (
    COACTIVATING,
    FOLDER,
    LENS,
    MANIFEST,
    NEAR_MISSES,
    NEGATIVE_LOGITS,
    NEIGHBORS,
    POSITIVE_LOGITS,
    QUANTILES,
    STATISTICS,
    VOCABULARY,
)
from .manifest import leading_shape, read_manifest
from .parquet import read_columns
from .run_folder import run_folder
from .vocabulary import Vocabulary

_STATISTICS = (
    "feature",
    "fired",
    "density",
    "mean_activation",
    "median_activation",
    "p99_activation",
    "max_activation",
)
"""Columns of statistics.parquet, by the names of `Feature`'s fields."""

_LATER_STATISTICS = ("special_fraction", "token_explained")
"""Columns that it has since version 3."""


class FeatureIndex:
    """The feature index of a run, opened for reading.

    Each of its files is compared with its checksum when it is first read.

    Attributes:
        path: its folder.  manifest: the content of manifest.json.  n_latents: F.
    """

    def __init__(self, path: str | Path, *, sae: str | None = None) -> None:
        """Open the index in a folder, or in the run folder that holds it as `features/`.

        Args:
            path: the folder, or the name of a dictionary that comes with this package.
            sae: fingerprint (`sae_fingerprint`) of the autoencoder that it must be of; by default
                it is not checked.

        Raises:
            InputError: there is no index, its manifest is broken or not as it was written, or it is
                of another autoencoder.
        """
        self.path = _index_folder(path)
        self.manifest = read_manifest(self.path, self._remedy)
        if sae is not None and self.manifest["sae"] != sae:
            raise InputError(
                f"the feature index {self.path} is of another autoencoder than the one given; "
                f"{self._remedy}"
            )
        self.n_latents = cast(int, self.manifest["n_latents"])

    @classmethod
    def of_run(cls, run: str | Path) -> "FeatureIndex":
        """Open the index of a run, checked against the run's autoencoder.

        Raises:
            InputError: as the constructor, or the run has no autoencoder.
        """
        from ...sae.autoencoder import SparseAutoencoder
        from ...sae.fingerprint import sae_fingerprint

        folder = _index_folder(run)
        sae = SparseAutoencoder.load(folder.parent / "sae")
        return cls(folder, sae=sae_fingerprint(sae))

    def require_files(self) -> None:
        """Raise InputError unless every file of the manifest is there with its size; the content is
        compared when it is first read."""
        require_sizes(self.path, self.manifest, self._remedy)

    def feature(self, number: int) -> Feature:
        """Everything that the index holds of a feature.

        Raises:
            InputError: there is no feature of that number, or a file is not as it was written.
        """
        self._require(number)
        statistics = {name: column[number].item() for name, column in self.statistics.items()}
        return Feature(
            **statistics,
            histogram=tuple(self._array("histogram")[number].tolist()),
            histogram_edges=tuple(self.manifest["histogram_edges"]),
            top=self._examples("top", number),
            random=self._examples("random", number),
            positive_logits=self._ranked_tokens(POSITIVE_LOGITS, number),
            negative_logits=self._ranked_tokens(NEGATIVE_LOGITS, number),
            neighbors=tuple(Neighbor(*pair) for pair in self._ranked(NEIGHBORS, number)),
            quantiles=self._quantiles(number),
            near_misses=self._examples(NEAR_MISSES, number) if self._has("near_misses") else (),
            coactivating=self._coactivating(number),
            lens=self._ranked_tokens(LENS, number) if self._has("lens") else None,
        )

    def max_activation(self, number: int) -> float:
        """The largest activation of a feature, in scaled units: the unit of steering strength.

        Raises:
            InputError: there is no feature of that number.
        """
        self._require(number)
        return self.statistics["max_activation"][number].item()

    def strongest(self, number: int) -> Example | None:
        """The place of a feature's largest activation; None if it never fired.

        Raises:
            InputError: there is no feature of that number.
        """
        self._require(number)
        return next(iter(self._examples("top", number, slice(0, 1))), None)

    def peak_texts(self, number: int, limit: int) -> list[str]:
        """The texts of the tokens on which a feature fires most, each once, at most `limit`.

        Raises:
            InputError: there is no feature of that number.
        """
        self._require(number)
        rows = self._array("top_rows")[number]
        peaks = self._array("top_tokens")[number, :, self.manifest["before"]]
        ids = dict.fromkeys(int(peak) for peak in peaks[rows >= 0])
        return ["".join(self.vocabulary.texts([id_])) for id_ in list(ids)[:limit]]

    def peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the top examples of every feature the token on which each is, -1 where there is none,
        and the activation there, [F, N] each."""
        before = cast(int, self.manifest["before"])
        tokens_FN = self._array("top_tokens")[..., before]
        tokens_FN = np.where(self._array("top_rows") >= 0, tokens_FN, -1)
        return tokens_FN, self._array("top_activations")[..., before]

    def promoted(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The tokens whose logit every feature raises most, best first, and these logits, [F, K]
        each; None if they were left out of the index."""
        if not self.manifest["logits"]:
            return None
        return self._array(f"{POSITIVE_LOGITS}_numbers"), self._array(f"{POSITIVE_LOGITS}_values")

    def neighbors(self, number: int) -> tuple[Neighbor, ...]:
        """The features with the most similar decoder direction, best first.

        Raises:
            InputError: there is no feature of that number.
        """
        self._require(number)
        return tuple(Neighbor(*pair) for pair in self._ranked(NEIGHBORS, number))

    @cached_property
    def statistics(self) -> dict[str, np.ndarray]:
        """The columns of statistics.parquet, [F] each, by the names of `Feature`'s fields."""
        path = self._whole(STATISTICS)
        columns = read_columns(path, self._remedy)
        names = {*_STATISTICS, *(_LATER_STATISTICS if self.manifest["version"] > 2 else ())}
        if columns.keys() != names or {*map(len, columns.values())} != {self.n_latents}:
            raise InputError(f"{path} has not what the manifest says; {self._remedy}")
        return {name: column.to_numpy() for name, column in columns.items()}

    @cached_property
    def firings(self) -> tuple[int, ...]:
        """Firings of all features together in each bin between the manifest's histogram_edges."""
        return tuple(self._array("histogram").sum(axis=0).tolist())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The text of every token id."""
        path = self._whole(VOCABULARY)
        columns = read_columns(path, self._remedy)
        if "bytes" not in columns:
            raise InputError(f"{path} has no column 'bytes'; {self._remedy}")
        return Vocabulary(columns["bytes"].to_pylist())

    def _whole(self, name: str) -> Path:
        """The path of a file, whose content is as it was written."""
        path = self.path / name
        require_as_written(path, record_of(self.manifest, name), self._remedy)
        return path

    @property
    def _remedy(self) -> str:
        return f"build the index again with `{_build_command(self.path.parent)}`"

    def _require(self, number: int) -> None:
        if not 0 <= number < self.n_latents:
            raise NotFound(
                f"there is no feature {number}; this autoencoder has features 0 to "
                f"{self.n_latents - 1}"
            )

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            path = self._whole(f"{name}.npy")
            try:
                # Never a pickle: what cannot be mapped is an error.
                array = np.lib.format.open_memmap(path, mode="r")
            except (OSError, ValueError, TokenError) as error:  # the last for a damaged header
                raise InputError(f"{path} cannot be read ({error}); {self._remedy}") from None
            shape = leading_shape(name, self.manifest)
            if array.shape[: len(shape)] != shape:
                raise InputError(
                    f"{path} has shape {list(array.shape)}, but the manifest says {list(shape)}; "
                    f"{self._remedy}"
                )
            self._arrays[name] = array
        array = self._arrays[name]
        mapped = cast(object, array.base)
        # What lies behind the end of a file that was cut meanwhile would end the process.
        if isinstance(mapped, mmap) and mapped.size() < len(mapped):
            raise InputError(
                f"{self.path / name}.npy has {mapped.size():,} bytes, not as many as were written; "
                f"{self._remedy}"
            )
        return array

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {}

    def _has(self, name: str) -> bool:
        """Whether the index was built with some of that: a number of its manifest, or a truth."""
        return bool(self.manifest.get(name))

    def _examples(self, kind: str, number: int, places: slice = slice(None)) -> tuple[Example, ...]:
        """The examples of a kind, or those in some of its places."""
        rows, docs, positions, tokens, activations = (
            self._array(f"{kind}_{name}")[number, places]
            for name in ("rows", "docs", "positions", "tokens", "activations")
        )
        folded = kind != "random" and self.manifest["version"] > 2
        duplicates = self._array(f"{kind}_duplicates")[number, places] if folded else None
        scores = self._array(f"{kind}_scores")[number, places] if kind == NEAR_MISSES else None
        before = cast(int, self.manifest["before"])
        examples: list[Example] = []
        for place in np.flatnonzero(rows >= 0):
            inside = np.flatnonzero(tokens[place] >= 0)
            ids = tokens[place][inside].tolist()
            examples.append(
                Example(
                    activation=activations[place, before].item(),
                    document=docs[place].item(),
                    position=positions[place].item(),
                    row=rows[place].item(),
                    peak=before - int(inside[0]),
                    tokens=tuple(ids),
                    texts=tuple(self.vocabulary.texts(ids)),
                    activations=tuple(activations[place][inside].tolist()),
                    duplicates=0 if duplicates is None else duplicates[place].item(),
                    pre_activation=None if scores is None else scores[place].item(),
                )
            )
        return tuple(examples)

    def _quantiles(self, number: int) -> tuple[QuantileExamples, ...]:
        if not self._has("quantiles"):
            return ()
        fired = self.statistics["fired"][number].item()
        counts = self._array(f"{QUANTILES}_counts")[number].tolist()
        bounds = self._array(f"{QUANTILES}_bounds")[number].tolist()
        size: int = self.manifest["quantile_examples"]
        return tuple(
            QuantileExamples(
                low=bounds[group],
                high=bounds[group + 1],
                fraction=counts[group] / fired,
                examples=self._examples(QUANTILES, number, slice(group * size, (group + 1) * size)),
            )
            for group in reversed(range(len(counts)))
            if counts[group]
        )

    def _coactivating(self, number: int) -> tuple[CoActivation, ...]:
        if not self._has("coactivating"):
            return ()
        columns = (
            self._array(f"{COACTIVATING}_{name}")[number].tolist()
            for name in ("numbers", "together", "jaccard")
        )
        others = zip(*columns, strict=True)
        return tuple(CoActivation(*other) for other in others if other[0] >= 0)

    def _ranked(self, kind: str, number: int) -> Iterator[tuple[int, float]]:
        """Numbers and values that were ranked for a feature, best first."""
        numbers, values = self._array(f"{kind}_numbers"), self._array(f"{kind}_values")
        if numbers.shape != values.shape:
            raise InputError(
                f"the arrays {kind}_numbers and {kind}_values in {self.path} differ in shape; "
                f"{self._remedy}"
            )
        return zip(numbers[number].tolist(), values[number].tolist(), strict=True)

    def _ranked_tokens(self, kind: str, number: int) -> tuple[RankedToken, ...] | None:
        if kind != LENS and not self.manifest["logits"]:
            return None
        # One by one: neighbors in the ranking are no text together.
        return tuple(
            RankedToken(id_, "".join(self.vocabulary.texts([id_])), logit)
            for id_, logit in self._ranked(kind, number)
        )


def has_index(source: str) -> bool:
    """Whether a run, or an autoencoder that is kept as one, has a feature index."""
    return (run_folder(source) / FOLDER).exists()


def _index_folder(source: str | Path) -> Path:
    for folder in () if is_shipped(source) else (Path(source), Path(source) / FOLDER):
        if (folder / MANIFEST).is_file():
            return folder
    run = run_folder(source)
    if (run / FOLDER / MANIFEST).is_file():
        return run / FOLDER
    raise InputError(f"{run} holds no feature index; build it with `{_build_command(run)}`")


def _build_command(run: Path) -> str:
    return f"sparsteer features build {run} --cache DIR"
