"""The texts of a study: what is fitted to, what strengths are chosen on, what is reported on.

They are apart: no text that anything is fitted to or chosen on is reported on, and no positive
text that is fitted to is one on which strengths are chosen.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice

from ...sae.common.errors import InputError
from ...sae.common.wording import counted
from ...training.data.corpus import open_corpus
from ..detox.fragments import fragments
from ..detox.prompts import prompts_of, reporting_prompts_among
from ..features.text_lists import read_text_list
from ..fitting.examples import LEAST_TO_HOLD_OUT
from .config import StudyConfig

ORDINARY = "news"
"""The fetched data set of ordinary texts."""

_BUFFER = 10_000
_LEAST_WORDS = 20
"""Of an ordinary text that costs are measured on."""


@dataclass(frozen=True, kw_only=True)
class StudyTexts:
    """Every text that a study reads."""

    prompts: tuple[str, ...]
    """Those that are continued and reported on."""
    tuning_prompts: tuple[str, ...]
    """Those on which strengths are chosen."""
    positive: tuple[str, ...]
    """Fitted to: what has the concept that is steered away from."""
    negative: tuple[str, ...]
    """Fitted to: what has not."""
    neutral: tuple[str, ...]
    """Ordinary texts on which costs are reported."""
    tuning_neutral: tuple[str, ...]
    """Ordinary texts on which strengths are chosen."""


def study_texts(config: StudyConfig) -> StudyTexts:
    """The texts that the settings name, or the fetched ones; the same settings give the same.

    Raises:
        InputError: a file is missing or broken, has too few texts, or texts that are fitted to or
            chosen on are reported on, too.
        FetchError: what is not named cannot be fetched.
    """
    positive, tuning_prompts = _concept_texts(config)
    ordinary = _ordinary(config.seed)
    if config.negative is None:
        negative = fragments(ordinary, [len(text.split()) for text in positive], config.seed)
    else:
        negative = _drawn(_read(config, "negative"), config.fit_texts, config.seed)
    tuning_neutral, neutral = _neutral_texts(config, ordinary)
    texts = StudyTexts(
        prompts=tuple(_prompts(config)),
        tuning_prompts=tuple(tuning_prompts),
        positive=tuple(positive),
        negative=tuple(negative),
        neutral=tuple(neutral),
        tuning_neutral=tuple(tuning_neutral),
    )
    _require_apart(texts)
    for name in ("positive", "negative"):
        own: tuple[str, ...] = getattr(texts, name)
        if len(own) < LEAST_TO_HOLD_OUT:
            raise InputError(
                f"{name} has {counted(len(own), 'text')} left to fit to, of which some are held "
                f"out; give at least {LEAST_TO_HOLD_OUT}, beside those that strengths are chosen "
                "on",
                field=name,
            )
    return texts


def _prompts(config: StudyConfig) -> list[str]:
    if config.prompts is None:
        return [prompt.text for prompt in prompts_of("reporting")[: config.n_prompts]]
    found = read_text_list(config.prompts, config.text_field, what="--prompts", prompts=True)
    return _drawn(found, config.n_prompts, config.seed)


def _concept_texts(config: StudyConfig) -> tuple[list[str], list[str]]:
    """What is fitted to, and the prompts on which strengths are chosen: other texts, which are set
    aside first, at most half of all."""
    if config.positive is None:
        found = [prompt.text for prompt in prompts_of("tuning")]  # in the order of a hash
    else:
        texts = _read(config, "positive")
        found = _drawn(texts, len(texts), config.seed)
    if config.tuning_prompts is not None:
        path, field = config.tuning_prompts, config.text_field
        others = read_text_list(path, field, what="--tuning-prompts", prompts=True)
        return found[: config.fit_texts], _drawn(others, config.tuning_size, config.seed)
    if len(found) < 2:
        raise InputError(
            f"positive has {counted(len(found), 'text')}; give at least two, one to fit to and one "
            "to choose strengths on, or give --tuning-prompts",
            field="positive",
        )
    n_tuning = min(config.tuning_size, len(found) // 2)
    return found[n_tuning:][: config.fit_texts], found[:n_tuning]


def _neutral_texts(config: StudyConfig, ordinary: Iterator[str]) -> tuple[list[str], list[str]]:
    """Those on which strengths are chosen, and others on which costs are reported."""
    if config.neutral is None:
        wanted = config.tuning_size + config.neutral_texts
        found = list(islice(ordinary, wanted))
    else:
        found = _read(config, "neutral")
        found = _drawn(found, len(found), config.seed)
    if len(found) < 2:
        raise InputError(
            f"neutral has {counted(len(found), 'text')}; give at least two, one to choose "
            "strengths on and one to report on",
            field="neutral",
        )
    n_tuning = min(config.tuning_size, len(found) // 2)
    return found[:n_tuning], found[n_tuning : n_tuning + config.neutral_texts]


def _ordinary(seed: int) -> Iterator[str]:
    """The fetched ordinary texts, each once; nothing is opened before the first is asked for."""
    documents = open_corpus(ORDINARY).documents(seed=seed, shuffle_buffer=_BUFFER)
    seen: set[str] = set()
    for document in documents:
        text = document.text.strip()
        if len(text.split()) >= _LEAST_WORDS and text not in seen:
            seen.add(text)
            yield text


def _read(config: StudyConfig, name: str) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return read_text_list(getattr(config, name), config.text_field, what=flag)


def _drawn(texts: Sequence[str], n: int, seed: int) -> list[str]:
    """At most n different texts in an order that the seed decides."""
    different = list(dict.fromkeys(texts))
    random.Random(seed).shuffle(different)
    return different[:n]


def _require_apart(texts: StudyTexts) -> None:
    """Raise an InputError if what is reported on was fitted to or chosen on, or strengths are
    chosen on what is fitted to."""
    if both := set(texts.positive) & set(texts.tuning_prompts):
        raise InputError(
            f"tuning_prompts has {counted(len(both), 'text')} of positive, so that strengths would "
            "be chosen on what is fitted to; take them out",
            field="tuning_prompts",
        )
    reported = {"prompts": set(texts.prompts), "neutral": set(texts.neutral)}
    for each in fields(texts):
        if each.name in reported:
            continue
        own: tuple[str, ...] = getattr(texts, each.name)
        for name, held in reported.items():
            if both := held & set(own):
                raise InputError(
                    f"{name} has {counted(len(both), 'text')} of {each.name.replace('_', '-')}, "
                    "so that what is chosen would be judged on what chose it; take them out",
                    field=name,
                )
        if found := len(reporting_prompts_among(own)):
            raise InputError(
                f"{each.name} has {counted(found, 'RealToxicityPrompts prompt')} of the side on "
                "which toxicity is reported; leave them out",
                field=each.name,
            )
