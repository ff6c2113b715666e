"""Settings of fitted maps and trained directions as a verb takes them; imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal

from ...sae.common.paths import FilePath
from ...sae.common.validation import require_choice
from .trained_config import (
    ComparedTokens,
    KeptTexts,
    LinActConfig,
    LinEASConfig,
    ModelPairConfig,
    ObservableConfig,
    ObservableMethod,
    ObservablePositions,
    Optimizer,
    ReFTConfig,
    TransportMap,
    TransportOrder,
)

OF_METHOD: dict[str, tuple[str, ...]] = {
    "lin_act": ("sae", "map", "order", "support", "support_quantile"),
    "lineas": (
        *("sae", "steps", "lr", "optimizer", "standardize", "l1", "group_l2", "post_steps"),
        *("texts_per_step", "checkpoint_every"),
    ),
    "observable": ("how", "positions"),
    "model_pair": ("keep", "compare"),
    "reft_r1": ("epochs", "texts_per_step", "lr", "largest", "penalty"),
}
"""The settings of each of these methods beside its texts."""

_OTHER_NAMES = {"compare": "tokens", "largest": "k"}
"""What a setting is called in the configuration of its method, where that differs."""


@dataclass(frozen=True, kw_only=True)
class TrainedOptions:
    """Settings of single methods; None is the method's own default, but for standardize."""

    sae: FilePath | None = None
    """With lin_act and lineas: run folder of an autoencoder, whose latents are mapped at its site
    in place of the residual's coordinates."""

    map: TransportMap | None = None
    """With lin_act: linear (default), a line through the sorted values of both sets; mean, a shift;
    gaussian, mean and deviation; aura, damping of coordinates that detect the negative texts."""

    order: TransportOrder | None = None
    """With lin_act: incremental (default) fits each site with the maps of earlier ones switched on;
    at_once fits every site to the unedited model."""

    support: Literal["on", "off"] | None = None
    """With lin_act: on leaves values alone outside the range of the fitted negative ones. By
    default on with --map linear only."""

    support_quantile: float | None = None
    """With lin_act: the range goes from this quantile to 1 minus it; by default 0."""

    steps: int | None = None
    """With lineas: gradient steps; by default 200."""

    lr: float | None = None
    """With lineas and reft_r1: learning rate at the beginning; by default 0.01."""

    optimizer: Optimizer | None = None
    """With lineas: adam (default) or sgd."""

    standardize: bool = True
    """With lineas: measure coordinates in standard deviations of the negative texts."""

    l1: float | None = None
    """With lineas: weight of the absolute values of w - 1 and of the shift; by default 0."""

    group_l2: float | None = None
    """With lineas: weight of the norms of w - 1 and of the shift at each site; by default 0."""

    post_steps: int | None = None
    """With lineas: further steps without --l1 and --group-l2; by default 0."""

    texts_per_step: int | None = None
    """With lineas: texts of each set in one step, by default all. With reft_r1: positive texts in
    one step, by default 6."""

    checkpoint_every: int | None = None
    """With lineas: steps between checkpoints, which the same command goes on from; by default
    10."""

    how: ObservableMethod | None = None
    """With observable: direct, from the site straight to the final norm; gradient (default), back
    through all later layers; boundary, the same halfway between --pairs of prompts."""

    positions: ObservablePositions | None = None
    """With observable: tokens whose activation counts in the gradient: all (default), or last."""

    keep: KeptTexts | None = None
    """With model_pair: texts that count: all (default); disagree, where the models' likeliest next
    token differs; gain, where only the second gives the answer; loss, only the first."""

    compare: ComparedTokens | None = None
    """With model_pair: tokens that count: all (default), last, or those of the answer."""

    epochs: int | None = None
    """With reft_r1: passes over the positive texts; by default 3."""

    largest: int | None = None
    """With reft_r1: tokens of a text whose activations are averaged to the size of the push; by
    default 8."""

    def of_method(self, method: str) -> dict[str, Any]:
        """The settings of a method that are given, as its configuration names them.

        Raises:
            InputError: support is neither on nor off.
        """
        if self.support is not None:
            require_choice("support", self.support, ("on", "off"))
        values = {name: getattr(self, name) for name in OF_METHOD[method] if name != "sae"}
        if self.support is not None and "support" in values:
            values["support"] = self.support == "on"
        return {_OTHER_NAMES.get(n, n): value for n, value in values.items() if value is not None}

    def require_right(self, method: str) -> None:
        """Raise an InputError unless the settings are right for the method, if it is one of
        these."""
        given = self.of_method(method) if method in OF_METHOD else {}
        sites = ("blocks.0.hook_resid_post",)
        match method:
            case "lin_act":
                LinActConfig(sites=sites, **given)
            case "lineas":
                LinEASConfig(sites=sites, **given)
            case "observable":
                ObservableConfig(observable="", **given)
            case "model_pair":
                ModelPairConfig(sites=sites, **given)
            case "reft_r1":
                ReFTConfig(**given)
            case _:
                pass
