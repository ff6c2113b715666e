"""The report of the demo: one HTML file, which needs no network, that says what came out.

A section is a function from what is known to HTML; `SECTIONS` has them in order.
"""

from collections.abc import Callable, Mapping

from ..report.markup import Html
from ..report.page import page
from .charts import density, epsilon, language_model, training
from .config import DemoConfig
from .report_context import ReportContext
from .selected import headlines, selection
from .stage import StageResult
from .steered import features, steering
from .summary import comparison, introduction, numbers, reproduction, smallness, title

SECTIONS: tuple[Callable[[ReportContext], Html], ...] = (
    introduction,
    headlines,
    smallness,
    numbers,
    comparison,
    training,
    density,
    language_model,
    epsilon,
    features,
    steering,
    selection,
    reproduction,
)


def render(config: DemoConfig, stages: Mapping[str, StageResult]) -> str:
    """The report as the text of an HTML file.

    Args:
        config: the demo's configuration.
        stages: the outcome of every stage, by name.
    """
    context = ReportContext(config, stages)
    return page(title(context), [section(context) for section in SECTIONS])
