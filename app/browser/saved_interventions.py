"""Interventions that whoever started the server named, for requests to use by their names.

A request brings no vectors and names no path; it can use what the operator allowed, and nothing
else that lies on the machine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...sae.common.errors import InputError
from ...sae.common.validation import require_finite
from ...steering.interventions.intervention import Intervention

if TYPE_CHECKING:
    from ...steering.loading import LoadedRun

_FIELDS = ("intervention", "strength")


class SavedInterventions:
    """Interventions by their names, read when the server starts."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Read them.

        Args:
            paths: of each name a JSON file or a folder, as `Intervention.load` reads it.

        Raises:
            InputError: one is missing, broken, or has no edit.
        """
        self._paths = dict(paths)
        self._interventions = {name: Intervention.load(path) for name, path in paths.items()}
        self._unfit: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """Those that requests can use, in the order given."""
        return [name for name in self._interventions if name not in self._unfit]

    def check(self, loaded: "LoadedRun", *, allow_other_weights: bool) -> list[str]:
        """Find out which of them fit what was loaded; others are refused from then on.

        Args:
            loaded: language model and autoencoder.
            allow_other_weights: whether one may have been fitted to other weights.

        Returns:
            A sentence for each that does not fit.
        """
        from ...steering.fitting.saving import require_fitted_to
        from ...steering.interventions.prepared import PreparedIntervention

        self._unfit.clear()
        for name, intervention in self._interventions.items():
            try:
                if not allow_other_weights:
                    require_fitted_to(self._paths[name], loaded.model)
                PreparedIntervention.of(intervention, loaded.model, loaded.sae)
            except InputError as error:
                self._unfit[name] = f"the intervention {name!r} cannot be used here: {error}"
        return list(self._unfit.values())

    def asked(self, steering: Mapping[str, Any]) -> Intervention:
        """The one that a request names, as many times as strong as it says.

        Args:
            steering: `intervention`, a name, and `strength`, a factor that is 1 by default.

        Raises:
            InputError: there is none of that name, it does not fit the model, or something else
                stands beside it.
        """
        name = steering["intervention"]
        beside = [field for field in steering if field not in _FIELDS]
        if beside:
            raise InputError(
                f"steering.{beside[0]} cannot stand beside steering.intervention, which says it; "
                "leave one of them out",
                field="steering",
            )
        if not isinstance(name, str) or name not in self._interventions:
            known = ", ".join(self.names)
            raise InputError(
                f"steering.intervention is {str(name)[:100]!r}, and this server knows "
                + (f"{known}" if known else "none; start it with --interventions NAME=DIR"),
                field="steering",
            )
        if name in self._unfit:
            raise InputError(self._unfit[name], field="steering")
        strength = steering.get("strength", 1.0)
        require_finite("strength", strength)
        return self._interventions[name].scaled(float(strength))


def applied(steering: Mapping[str, Any] | None, intervention: Intervention) -> dict[str, Any]:
    """What repeats how an answer was steered: the name and the strength where it was named, else
    the intervention in full."""
    if steering is not None and "intervention" in steering:
        return {"strength": 1.0, **steering}
    return intervention.to_dict()
