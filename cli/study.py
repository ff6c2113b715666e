"""The verbs `detox eval` and `steer eval`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..sae.common.paths import FilePath
from ..steering.registries import SCORERS
from ..steering.study.config import StudyConfig
from .console import Report, Terminal


@dataclass(frozen=True, kw_only=True)
class ConceptStudyConfig(StudyConfig):
    """Compare ways to steer a model away from a concept, at equal cost."""

    prompts: FilePath = field()
    """Beginnings of texts that are continued and reported on."""

    positive: FilePath = field()
    """Texts that have the concept, to which directions, gates and picks are fitted."""

    negative: FilePath = field()
    """Texts that have not."""

    scorer: tuple[Annotated[str, SCORERS], ...] = field()
    """What says from 0 to 1 how much of the concept a text has; a package of your own adds one
    (docs/extending.md). None of them may have chosen anything."""


def detox(config: StudyConfig, terminal: Terminal) -> Report:
    """Compare ways to make a model's texts less toxic, at equal cost.

    RUN is the folder of a run with its feature index. Strengths are chosen on prompts of the tuning
    side of RealToxicityPrompts and reported on those of the other side. Every fit, strength, batch
    of continuations and measure is kept in --out, from where the same command goes on.
    """
    return _study(config, terminal)


def concept(config: ConceptStudyConfig, terminal: Terminal) -> Report:
    """Compare ways to steer a model away from a concept, at equal cost.

    As `detox eval`, with prompts, texts and a scorer of your own.
    """
    return _study(config, terminal)


def _study(config: StudyConfig, terminal: Terminal) -> Report:
    from ..app.report.files import has_matplotlib, require_page_replaceable
    from ..app.report.study_page import PAGE_FILE, write_study_page
    from ..steering.study.runner import run_study
    from .study_table import study_table

    require_page_replaceable(Path(config.out) / PAGE_FILE)
    with terminal.progress("writing", "continuations") as update:
        result = run_study(
            config,
            say=terminal.say,
            progress=lambda setting, done, total: update(done, total, setting),
        )
    if not has_matplotlib():
        terminal.say("the page has no plots without matplotlib; pip install 'sparsteer[plots]'")
    page = write_study_page(result)
    return Report(
        values={**result, "page": str(page)},
        shown=[*study_table(result), f"written: {page}"],
        warnings=_warnings(result),
    )


def _warnings(result: Mapping[str, Any]) -> list[str]:
    failed = [f"left out: {one['name']}: {one['why']}" for one in result["failed"]]
    missed = [
        f"{row['name']} has not the cost: at strength {row['strength']:.3g} it costs "
        f"{row['dose']:.3g} on the texts on which strengths are chosen"
        for row in result["rows"]
        if not row["reached"] and row["dose"] is not None
    ]
    return [*failed, *missed, *result["cautions"]]
