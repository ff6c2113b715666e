"""The part `probing`: whether few latents tell the label of a text."""

from collections.abc import Sequence

from ....training.evaluation.probing.config import ProbingSettings
from ....training.evaluation.probing.probing import probe
from ....training.evaluation.probing.result import ArmFigures, ProbingResult, arm_figures
from ....training.evaluation.probing.tasks import load_tasks
from ..part import Figure, Measured, Part, SuiteContext


def probing(context: SuiteContext) -> Sequence[Measured]:
    """What `probe` finds about each autoencoder, those of one site together; in the details all
    scores, and those of the activation."""
    settings: ProbingSettings = context.options
    tasks = load_tasks(settings.tasks, progress=context.say)
    model = context.model()
    found: dict[int, Measured] = {}
    for site in dict.fromkeys(subject.site for subject in context.subjects):
        own = [number for number, one in enumerate(context.subjects) if one.site == site]
        saes = [context.subjects[number].sae for number in own]
        result = probe(saes, model, site, tasks, settings, progress=context.progress)
        of_site = result.as_dict()
        of_saes = of_site.pop("autoencoders")
        for place, number in enumerate(own):
            details = {**of_site, **of_saes[place]}
            found[number] = Measured(figures=_figures(result, place), details=details)
    return [found[number] for number in range(len(context.subjects))]


def _figures(result: ProbingResult, number: int) -> list[Figure]:
    """The accuracy of each arm; the table has that of the latents, and that of all coordinates."""
    arms = [*result.figures(number), *arm_figures(result.activation)]
    shown = [_figure(one) for one in arms if one.arm in ("latents", "dense") and one.above is None]
    rest = [_figure(one) for one in arms if one.arm not in ("latents", "dense") or one.above]
    return shown + rest


def _figure(of_arm: ArmFigures) -> Figure:
    name = of_arm.arm if of_arm.above is None else f"above_{of_arm.above}"
    words = {"latents": "probe", "dense": "probe of all coordinates"}.get(name, name)
    number = "" if of_arm.k is None else f" {of_arm.k}"
    return Figure(
        name=f"{name}{number}".replace(" ", "_"),
        value=of_arm.accuracy.mean,
        heading=f"{words.replace('_', ' ')}{number}",
        interval=(of_arm.accuracy.low, of_arm.accuracy.high),
        in_table=of_arm.above is None and name in ("latents", "dense"),
    )


PROBING = Part(
    measure=probing,
    heading="sparse probing",
    reading="Accuracy on held-out texts of probes that tell two labels apart by so many latents, "
    "chosen on other texts; chance is 0.5, and a probe of all coordinates of the activation is "
    "the ceiling. Above PCA is accuracy less that of as many principal components, on the same "
    "tasks and splits. Means over tasks and splits.",
    options=ProbingSettings,
    depends_on=("cache", "model"),
    needs_model=True,
)
