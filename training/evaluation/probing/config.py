"""Settings of k-sparse probing, checked when they are made; imports no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ....sae.common.errors import InputError
from ....sae.common.validation import (
    require_choice,
    require_given,
    require_integer,
    require_positive_integer,
    require_tuple,
)

Pooling = Literal["mean", "last"]

DATA = "probing-tasks"
"""What `sparsteer fetch` calls the tasks."""

ALL = "all"
"""In place of names: every task there is."""

LEAST_TEXTS = 30
"""Texts of each label, without which a task cannot be measured."""

DEFAULT_TASKS = (
    "5_hist_fig_ismale",
    "36_sciq_tf",
    "52_virtue_is",
    "62_wikidata_occupation_ispolitician",
    "70_prime-factors",
    "78_north-america",
    "87_glue_cola",
    "105_click_bait",
    "117_us_state_FL",
    "125_world_country_Italy",
    "136_glue_mnli_entailment",
    "147_disease_class_nervous system diseases",
    "155_athlete_sport_basketball",
    "163_agnews_2",
)
"""Of the tasks with 250 different texts of each label, in the order of the file, the first and
every eighth after it: a rule that knows no result."""


@dataclass(frozen=True, kw_only=True)
class ProbingSettings:
    """On which tasks probes are fitted, on how many texts, and how many latents they may use."""

    tasks: tuple[str, ...] = DEFAULT_TASKS
    """Data sets with two labels, by their names in `sparsteer fetch probing-tasks`, or `all` of
    the 113. By default 14 of them, taken by a rule that knows no result."""

    texts: int = 400
    """Most texts of a task, half of each label; no text is taken twice."""

    ks: tuple[int, ...] = (1, 2, 5, 16)
    """How many latents a probe may use, in rising order."""

    seeds: int = 3
    """Ways to split the texts into training and held-out ones; probes are fitted for each."""

    max_length: int = 128
    """Tokens read of each text, BOS not counted; what comes behind them is dropped."""

    pooling: Pooling = "mean"
    """From the tokens of a text to one value for each latent: the mean over content tokens, as in
    SAEBench, or the value at the last one, as in sae-probes."""

    batch_tokens: int = 4096
    """Most tokens in one forward pass, padding included."""

    def __post_init__(self) -> None:
        require_tuple("tasks", self.tasks)
        if not self.tasks:
            raise InputError("tasks is empty; name a task, or all", field="tasks")
        for name in self.tasks:
            require_given("tasks", name)
        require_integer("texts", self.texts, least=2 * LEAST_TEXTS)
        for k in self.ks:
            require_positive_integer("ks", k)
        if not self.ks or list(self.ks) != sorted(set(self.ks)):
            raise InputError(
                f"ks is {self.ks}; give one or several whole numbers in rising order", field="ks"
            )
        require_positive_integer("seeds", self.seeds)
        require_integer("max_length", self.max_length, least=2)
        require_choice("pooling", self.pooling, get_args(Pooling))
        require_positive_integer("batch_tokens", self.batch_tokens)
