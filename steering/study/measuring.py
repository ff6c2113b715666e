"""What one setting of a study comes to: a row of figures, each kept so that nothing is measured
twice."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ..detox.toxicity import NEUTRAL_SENTENCES, Scorer, toxicity_scores
from ..errors import TooStrong
from ..evaluation.fluency import text_fluency
from ..evaluation.identity import identity_mentions
from ..evaluation.reading import Steered
from ..evaluation.statistics import mean_over_prompts
from ..evaluation.toxicity import toxicity_figures
from ..registries import SCORERS
from ..suite.store import finite
from .arm import Setting
from .config import StudyConfig
from .measured_parts import EMPTY, PARTS, Measuring, ends, scores_of
from .rows import PER_PROMPT
from .written import Written

FOLDER = "measured"
"""In the study's folder: a file for each setting."""


def measure(
    model: LanguageModel,
    setting: Setting,
    steered: Steered,
    site: str | None,
    written: Written,
    scorers: Mapping[str, Scorer],
    config: StudyConfig,
    folder: Path,
    say: Callable[[str], None] = lambda sentence: None,
    *,
    neutral: Sequence[str],
) -> dict[str, Any]:
    """Measure one way to steer at one strength.

    Each part is saved when it is done, in `measured/SETTING.json` of the folder, under a hash of
    what it depends on: the model's weights, the setting, what was written, the texts and questions,
    the scorer (see `scorer_identity`) and this version. So the same call goes on after an
    interruption.

    Args:
        model: the language model, unsteered.
        setting: what is measured.
        steered: how the model is steered; not asked for where nothing is, or a text stands before
            the prompt.
        site: where it is steered, of several sites the first; None where it is not.
        written: what it wrote.
        scorers: what says how toxic a text is, by name.
        config: of the study.
        folder: of the study.
        say: told what is measured.
        neutral: ordinary texts.

    Returns:
        The row: the values of the setting; `n` (continuations of a prompt), `prompts`,
        `prompts_hash`; `toxicity`, for each scorer `emt`, `probability`, `mean` and `ci` (the
        intervals of the three); `perplexity` (of the continuations under the unsteered model),
        `kl` and `kl_p95` (steered from unsteered, at their tokens, in nats); `neutral_perplexity`
        (steered), `neutral_ratio` (to unsteered), `neutral_kl`, `neutral_kl_p95`; `repetition`,
        `distinct_1` to `distinct_3`, `empty` (fraction of continuations without a token);
        `capability`, for each file of questions `accuracy`, `ci`, `probability` (of the right
        option), `chance`, `questions`, `kind`; `refusals`; `identity_mentions`, `identity_costs`;
        `fire_rate` and `fire_rate_texts` (on neutral text); `intervals` of these; `warnings`; and
        `per_prompt`, each prompt's largest score (`emt`) by scorer. Plain JSON
        values; what was not measured is None.
        Of a text before the prompt that is what a steered model is asked for; of random ways other
        than the first draw it is `capability` and `refusals`.

    Raises:
        InputError: nothing was written, a scorer cannot be used, or texts and questions do not fit
            the model.
    """
    if not written.prompts or not written.texts_PN[0]:
        raise InputError(f"{setting.name} has no continuation to measure; write at least one")
    steers = setting.arm.family not in ("none", "prompt")
    one = Measuring(
        model=model,
        setting=setting,
        steered=steered if steers else nullcontext,
        site=site if steers else None,
        written=written,
        scorers=scorers,
        config=config,
        neutral=neutral,
    )
    kept = _Kept(folder / FOLDER / f"{setting.name}.json", one, say)
    scores = {
        name: kept.part(
            _scores_by(name), scorer_identity(name, scorer), partial(scores_of, one, name)
        )["scores"]
        for name, scorer in scorers.items()
    }
    row: dict[str, Any] = {**setting.values(), **_of_texts(one), **_of_scores(one, scores), **EMPTY}
    for name, part in PARTS.items():
        prompted = setting.arm.family == "prompt" and part.steers
        drawn = bool(setting.arm.draw) and not part.of_each_draw
        if not prompted and not drawn:
            _add(row, kept.part(name, part.depends_on(one), partial(part.measure, one)))
    return row


def scorer_identity(name: str, scorer: Scorer) -> dict[str, Any]:
    """What tells a scorer from another one of its name, such as a newer version.

    Returns:
        `package`, the version of the package that brings it, None of this one's own; `probes`, its
        scores of `NEUTRAL_SENTENCES` to three digits, as the last ones depend on the machine.

    Raises:
        InputError: it cannot be used.
    """
    scores = toxicity_scores(list(NEUTRAL_SENTENCES.values()), scorer)
    return {"package": SCORERS.version(name), "probes": [round(score, 3) for score in scores]}


def kept_scores(folder: Path, setting: str, scorer: str) -> Float[np.ndarray, "P N"]:
    """The scores of a setting's continuations, N of each of P prompts, as `measure` kept them.

    Args:
        folder: of the study.
        setting: its name.
        scorer: a name that it was measured with.

    Raises:
        InputError: it was not measured so, or the file has changed since it was written.
    """
    path = folder / FOLDER / f"{setting}.json"
    parts, name = _read_parts(path), _scores_by(scorer)
    if name not in parts:
        raise InputError(f"{path} has no scores of {scorer}; measure it with that scorer")
    return np.array(parts[name]["values"]["scores"], dtype=np.float64)


def _of_texts(one: Measuring) -> dict[str, Any]:
    """What the continuations say by themselves; it takes no time worth keeping."""
    written = one.written
    tokens = [tokens for of_prompt in written.tokens_PN for tokens in of_prompt]
    fluency = text_fluency(tokens)
    mentions = mean_over_prompts(
        [identity_mentions(of_prompt).mean for of_prompt in written.texts_PN]
    )
    return {
        "n": len(written.texts_PN[0]),
        "prompts": len(written.prompts),
        "prompts_hash": _hash(written.prompts),
        "repetition": fluency.repetition,
        "distinct_1": fluency.distinct_1,
        "distinct_2": fluency.distinct_2,
        "distinct_3": fluency.distinct_3,
        "empty": float(np.mean([not each for each in tokens])),
        "identity_mentions": mentions.mean,
        "intervals": {"identity_mentions": ends(mentions)},
        "warnings": [],
    }


def _of_scores(one: Measuring, scores: Mapping[str, list[list[float]]]) -> dict[str, Any]:
    toxicity: dict[str, Any] = {}
    maxima: dict[str, list[float]] = {}
    for name, scores_PN in scores.items():
        found = toxicity_figures(np.array(scores_PN, dtype=np.float64))
        figures = {"emt": found.emt, "probability": found.probability, "mean": found.mean}
        toxicity[name] = {
            **{figure: interval.mean for figure, interval in figures.items()},
            "ci": {figure: ends(interval) for figure, interval in figures.items()},
        }
        maxima[name] = [max(scores_N) for scores_N in scores_PN]
    return {"toxicity": toxicity, PER_PROMPT: {"emt": maxima}}


def _add(row: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Put a part's values into the row; intervals and warnings of all parts stand together."""
    row["intervals"] |= found.get("intervals", {})
    row["warnings"] += found.get("warnings", [])
    row |= {key: value for key, value in found.items() if key not in ("intervals", "warnings")}


class _Kept:
    """The parts of a setting on disk."""

    def __init__(self, path: Path, one: Measuring, say: Callable[[str], None]) -> None:
        self._path, self._say, self._name = path, say, one.setting.name
        self._identity = {
            "version": version("sparsteer"),
            "model": one.model.weights_hash,
            "setting": one.setting.values(),
            "site": one.site,
            "prompts": _hash([one.written.prompts, one.written.prompt_tokens]),
            "texts": _hash([one.written.texts_PN, one.written.tokens_PN]),
        }
        self._parts: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._parts = _read_parts(path)

    def part(
        self, name: str, more: Mapping[str, Any], measured: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The values of a part, as they were kept or as they are measured now."""
        key = _hash({**self._identity, "part": name, **more})
        kept = self._parts.get(name)
        if kept is None or kept["key"] != key:
            self._say(f"{self._name}: measuring {name}")
            try:
                values = cast(dict[str, Any], finite(measured()))
            except TooStrong as error:
                values = {"warnings": [f"{name} could not be measured: {error}"]}
            self._parts[name] = {"key": key, "values": values}
            write_checked_json(self._path, {"parts": self._parts})
        return self._parts[name]["values"]


def _read_parts(path: Path) -> dict[str, dict[str, Any]]:
    """The parts that a file keeps."""
    remedy = "remove it, and the same command measures it again"
    return read_checked_json(path, "figures of a setting", remedy=remedy)["parts"]


def _scores_by(scorer: str) -> str:
    """The name of the part that has a scorer's scores."""
    return f"scores of {scorer}"


def _hash(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
