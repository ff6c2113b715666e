"""The intervention that a request asks for, by its features or by the run's picks."""

from typing import Any, cast

from ....sae.common.errors import InputError
from ....sae.common.validation import require_finite
from ....steering.features.picks import Pick
from ....steering.interventions.intervention import Intervention
from ..playground_settings import intervention_of
from ..session import Session
from .body import Body

_NUMBERS = {"strength", "max_activation", "p99", "threshold", "budget"}
_DIGITS = 20
"""That no feature's number has."""


def asked_intervention(session: Session, body: Body) -> Intervention | None:
    """How the request is to be steered; None where it says nothing of it.

    Raises:
        InputError: it is no intervention, or there are no such picks, or none of that name.
    """
    steering = dict(body.steering or {})
    if body.picks is not None:
        if "features" in steering:
            raise InputError("picks cannot stand beside steering.features; give one", field="picks")
        if "intervention" in steering:
            raise InputError(
                "picks cannot stand beside steering.intervention; give one", field="picks"
            )
        steering["features"] = [
            {"index": pick.feature, "strength": pick.strength}
            for pick in _picked(session, body.picks)
        ]
    if "intervention" in steering:
        return session.saved.asked(_with_numbers(steering))
    return intervention_of(session, _with_numbers(steering)) if steering else None


def _with_numbers(values: dict[str, Any], depth: int = 3) -> dict[str, Any]:
    """JSON writes 2.0 as 2, too: settings that are numbers as such, also those of edits, gates and
    features, which lie no deeper than `depth`."""

    def part(each: Any) -> Any:
        if isinstance(each, dict) and depth:
            return _with_numbers(cast(dict[str, Any], each), depth - 1)
        return cast(object, each)

    def number(name: str, value: object) -> object:
        if isinstance(value, list):
            return [part(each) for each in cast(list[object], value)]
        if not isinstance(value, int) or isinstance(value, bool) or name not in _NUMBERS:
            return part(value)
        require_finite(name, value)  # one of hundreds of digits is no float
        return float(value)

    return {name: number(name, value) for name, value in values.items()}


def _picked(session: Session, wanted: str | int | list[int]) -> list[Pick]:
    """The picks that `all`, `starred`, numbers or a label stand for."""
    picks = session.picks.picks().picks
    numbers = _numbers(wanted)
    if numbers is not None:
        found = [pick for pick in picks if pick.feature in numbers]
        missing = sorted(set(numbers) - {pick.feature for pick in found})
        if missing:
            raise InputError(
                f"feature {missing[0]} is not picked; pick it, or name it in steering.features",
                field="picks",
            )
        return found
    steering = [pick for pick in picks if pick.steers]
    if wanted == "all":
        found = steering
    elif wanted == "starred":
        found = [pick for pick in steering if pick.starred]
    else:
        label = str(wanted).casefold()
        found = [pick for pick in steering if pick.label.casefold() == label]
    if not found:
        raise InputError(
            f"picks is {wanted!r}, and no pick is that; give all, starred, a pick's label or its "
            "number",
            field="picks",
        )
    return found


def _numbers(wanted: str | int | list[int]) -> list[int] | None:
    if isinstance(wanted, int):
        return [wanted]
    if isinstance(wanted, str):
        parts = [part.strip() for part in wanted.split(",")]
        are_numbers = all(part.isdecimal() and len(part) < _DIGITS for part in parts)
        return [int(part) for part in parts] if are_numbers else None
    return wanted
