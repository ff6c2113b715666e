"""A score taken apart: which features a row and the target share, and at which tokens they fire.

The score is J = sum_f min(z_f, p_f) / M with M = sum_f max(z_f, p_f), for the row's mean code z and
the target's p. So min(z_f, p_f) / M is the share of feature f, and the shares add up to J. What is
missing to 1 is what only one side has: z_f - min and p_f - min over M, of the row and the target.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.fingerprint import sae_fingerprint
from ...training.data.row_files.opening import open_rows
from ...training.data.row_files.row_text import TextFields
from ..encoding import EncodedText, encode_texts
from ..features.vocabulary import Vocabulary, token_bytes
from ..loading import LoadedRun, load_run_of
from .config import DEFAULT_METHOD, ExplainConfig
from .embedding import Mean, mean_code
from .read_rows import read_rows
from .scored_file import ScoredFile


@dataclass(frozen=True, eq=False)
class Shares:
    """A generalized Jaccard similarity as a sum over latents, in float64."""

    shares_F: Float[Tensor, "F"]
    """min(z_f, p_f) / M of each latent; they add up to the similarity."""
    only_row_F: Float[Tensor, "F"]
    """(z_f - min) / M: what the row has beyond the target."""
    only_target_F: Float[Tensor, "F"]
    """(p_f - min) / M: what the target has beyond the row."""

    @property
    def score(self) -> float:
        """The similarity."""
        return float(self.shares_F.sum())


def shares_of(row: Mean, prototype_F: Float[Tensor, "F"]) -> Shares:
    """Take the similarity of a row's mean code and a prototype apart; everything 0 where both are.

    Args:
        row: the mean code, nowhere negative.
        prototype_F: dense, nowhere negative.
    """
    p_F = prototype_F.double()
    z_F = torch.zeros_like(p_F).index_add_(0, row.indices, row.values.double())
    minima_F = torch.minimum(z_F, p_F)
    total = torch.maximum(z_F, p_F).sum()
    scale = 0.0 if total == 0 else 1 / total
    return Shares(scale * minima_F, scale * (z_F - minima_F), scale * (p_F - minima_F))


@dataclass(frozen=True, kw_only=True)
class FeatureShare:
    """What one feature adds to a row's score, or what a side has of it alone."""

    feature: int
    share: float
    """Of the score: these of all features add up to it. Of a feature that only one side has, what
    it takes away from 1."""
    row: float
    """Its mean activation over the row's content tokens, in the autoencoder's scaled units."""
    target: float
    """The same over the target's examples."""
    activations: tuple[float, ...]
    """At each of the row's tokens; 0 where it does not fire or the token is no content."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a row has its score."""

    row: int
    """Counted from 1."""
    score: float
    """As it was computed now."""
    stored_score: float
    """As it stands in the file."""
    shared_features: int
    """Features that are active in both."""
    only_row: float
    """What is missing to a score of 1 because the row has it and the target has not."""
    only_target: float
    """The same the other way round; score, only_row and only_target add up to 1."""
    tokens: tuple[str, ...]
    """The text of each token that was read."""
    content: tuple[bool, ...]
    """Which of them count."""
    token_shares: tuple[float, ...]
    """What each token adds to the score: of each feature's share the part that the token has of
    its activation. They add up to the score, too."""
    features: tuple[FeatureShare, ...]
    """The largest shares of the score, the largest first."""
    missing: tuple[FeatureShare, ...]
    """The features that the target has most beyond the row."""
    extra: tuple[FeatureShare, ...]
    """The features that the row has most beyond the target."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


class Explainer:
    """Explains rows of one scored file, whose target is read once."""

    def __init__(
        self, scored: ScoredFile, loaded: LoadedRun, *, target: str | Path | None = None
    ) -> None:
        """Read the target's examples.

        Args:
            scored: the file.
            loaded: the autoencoder that scored it, with its language model and site.
            target: the examples; by default where they were when the rows were scored, by that
                path or beside the file.

        Raises:
            InputError: the file was scored by another method, autoencoder or language model, or
                there is no record of it; or the target is not there or has changed.
        """
        self._scored, self._loaded = scored, loaded
        _require_same(scored, loaded)
        path = _target_of(scored, target)
        described = scored.summary["target"]["text"]
        fields = TextFields(described["layout"], tuple(described["fields"]))
        rows = open_rows(path, "--target", skip_bad_rows=True)
        examples = [fields.text_of(row) for row in rows.rows(fields=fields.fields)]
        read = read_rows(loaded, examples, batch_size=32, max_length=self._max_length)
        read.require_readable(f"the target {path}")
        self.prototype_F = read.readable.mean_code_F
        """The target's mean code."""
        self._vocabulary = Vocabulary(token_bytes(loaded.model.tokenizer))

    def explain(self, row: int, *, features: int = 10) -> Explanation:
        """Take the score of a row apart.

        Args:
            row: its number, counted from 1.
            features: how many are given of each kind.

        Raises:
            InputError: there is no such row, or it was not scored.
        """
        (text,) = self._scored.texts([row - 1])
        stored = float(self._scored.scores_N[row - 1])
        if stored != stored:
            raise InputError(f"row {row} has no score, so there is nothing to explain", field="row")
        (read,) = encode_texts(*self._loaded, [text.text], max_length=self._max_length)
        mean = mean_code(read.codes, len(self.prototype_F))
        shares = shares_of(mean, self.prototype_F)
        ids = [int(token) for token in read.tokens]

        def largest(values_F: Tensor) -> tuple[FeatureShare, ...]:
            found = torch.topk(values_F, min(features, len(values_F)))
            return tuple(
                self._share(read, mean, int(latent), float(value))
                for value, latent in zip(found.values, found.indices, strict=True)
                if value > 0
            )

        return Explanation(
            row=row,
            score=shares.score,
            stored_score=stored,
            shared_features=int((shares.shares_F > 0).sum()),
            only_row=float(shares.only_row_F.sum()),
            only_target=float(shares.only_target_F.sum()),
            tokens=tuple(self._vocabulary.texts(ids)),
            content=tuple(bool(kept) for kept in read.kept),
            token_shares=_token_shares(read, mean, shares),
            features=largest(shares.shares_F),
            missing=largest(shares.only_target_F),
            extra=largest(shares.only_row_F),
        )

    @property
    def _max_length(self) -> int | None:
        return self._scored.identity["max_length"]

    def _share(self, read: EncodedText, mean: Mean, latent: int, share: float) -> FeatureShare:
        activations = torch.zeros(len(read.tokens))
        own = torch.where(read.codes.indices == latent, read.codes.values, 0).sum(dim=1)
        activations[read.kept] = own.float()
        return FeatureShare(
            feature=latent,
            share=share,
            row=_value_of(mean, latent),
            target=float(self.prototype_F[latent]),
            activations=tuple(float(each) for each in activations),
        )


def explain(
    config: ExplainConfig, *, say: Callable[[str], None] = lambda sentence: None
) -> dict[str, Any]:
    """What `sparsteer explain` shows of a row: an `Explanation`'s values, with file, run and the
    row's text.

    Raises:
        InputError: as `Explainer` and `Explainer.explain`.
    """
    scored = ScoredFile.open(config.file)
    (text,) = scored.texts([config.row - 1])
    explainer = Explainer(scored, load_run_of(config, say), target=config.target)
    found = explainer.explain(config.row, features=config.features)
    return {"file": config.file, "run": config.run, "text": text.text, **found.to_dict()}


def _token_shares(read: EncodedText, mean: Mean, shares: Shares) -> tuple[float, ...]:
    """Each latent's share given to the tokens by their activations."""
    z_F = torch.zeros_like(shares.shares_F).index_add_(0, mean.indices, mean.values.double())
    of_unit_F = torch.where(z_F > 0, shares.shares_F / z_F / max(1, int(read.kept.sum())), 0)
    found = torch.zeros(len(read.tokens), dtype=torch.float64)
    found[read.kept] = (of_unit_F[read.codes.indices] * read.codes.values.double()).sum(dim=1)
    return tuple(float(each) for each in found)


def _value_of(mean: Mean, latent: int) -> float:
    return float(mean.values[mean.indices == latent].sum())


def _require_same(scored: ScoredFile, loaded: LoadedRun) -> None:
    """Raise InputError unless the file says that these scored it."""
    path = scored.path
    if not scored.identity:
        raise InputError(
            f"beside {path} there is no {path.name}.scoring, so what it was scored with is not "
            "known; score it with `sparsteer score`"
        )
    if scored.method != DEFAULT_METHOD:
        raise InputError(
            f"{path} was scored by the method {scored.method!r}, which knows no features; only "
            f"{DEFAULT_METHOD} can be taken apart"
        )
    if scored.identity["autoencoder"] != sae_fingerprint(loaded.sae):
        raise InputError(f"{path} was scored with another autoencoder; open the run of that one")
    if scored.identity["model"] != loaded.model.weights_hash:
        raise InputError(f"{path} was scored with another language model; give it as --model")
    if scored.identity["site"] != loaded.site.name:
        raise InputError(
            f"{path} was scored at the site {scored.identity['site']}; give it as --site"
        )


def _target_of(scored: ScoredFile, given: str | Path | None) -> Path:
    """The file of the target's examples, which are as they were."""
    then = Path(scored.summary["target"]["file"])
    beside = scored.path.parent
    places = [Path(given)] if given is not None else [then, beside / then, beside / then.name]
    there = [place for place in places if place.exists()]
    if not there:
        raise InputError(
            f"the target {places[0]} of these scores is not there; put it back, or beside the "
            "scores, or give its path to `sparsteer explain` as --target"
        )
    for place in there:
        if open_rows(place, "--target").fingerprint() == scored.identity["target"]:
            return place
    raise InputError(
        f"{there[0]} is not what the rows were scored against; put the target of then beside the "
        "scores, or give its path to `sparsteer explain` as --target"
    )
