"""A language model in TransformerLens' bridge, hooked by the bridge's hook points."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from .network import SITE_KINDS, Network, SiteHook, is_being_asked, sorted_sites

_SITE = re.compile(rf"blocks\.(\d+)\.hook_({'|'.join(SITE_KINDS)})")


class BridgeNetwork(Network):
    """The bridge runs, its attention eager; see `Network`."""

    def __init__(self, bridge: TransformerBridge) -> None:
        """Take the bridge with its layers repaired (`repair_layers`)."""
        wrapped: Any = bridge
        self.bridge = bridge
        self.model = wrapped.original_model
        self.n_layers = bridge.cfg.n_layers
        self.d_model = bridge.cfg.d_model
        self.n_vocab = bridge.cfg.d_vocab
        self.max_context = bridge.cfg.n_ctx
        self.device = torch.device(bridge.cfg.device or "cpu")
        self.head = wrapped.unembed

    def has(self, site: str) -> bool:
        """By the bridge's hook points."""
        return _SITE.fullmatch(site) is not None and site in self.bridge.hook_dict

    @property
    def site_names(self) -> list[str]:
        """The sites among the bridge's hook points."""
        found: dict[int, set[str]] = {}
        for name in self.bridge.hook_dict:
            if match := _SITE.fullmatch(name):
                found.setdefault(int(match[1]), set()).add(match[2])
        return sorted_sites(found)

    @contextmanager
    def hooked(self, site: str, function: SiteHook) -> Generator[None]:
        """By the hook point of the site's name."""
        with _hooked(self.bridge.hook_dict[site], function):
            yield

    @property
    def is_hooked(self) -> bool:
        """Whether anything is hooked into the bridge now."""
        return any(point.has_hooks() for point in self.bridge.hook_dict.values())

    @contextmanager
    def head_hooked(self, function: Callable[[Tensor], Tensor]) -> Generator[None]:
        """By the hook point of the unembedding's input."""
        head: Any = self.head
        with _hooked(head.hook_in, function):
            yield

    def __call__(
        self,
        tokens: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B T"] | None = None,
        **given: Any,
    ) -> Float[Tensor, "..."]:
        """The bridge derives positions from the mask."""
        bridge: Any = self.bridge
        with self.few_positions(given):
            return bridge(tokens, attention_mask=attention_mask, **given)

    @contextmanager
    def asked(self) -> Generator[None]:
        """What users hooked into the bridge does not run either."""
        points: Sequence[Any] = list(self.bridge.hook_dict.values())
        before = [point._forward_hooks for point in points]
        for point in points:
            point._forward_hooks = type(point._forward_hooks)()
        try:
            with super().asked():
                yield
        finally:
            for point, hooks in zip(points, before, strict=True):
                point._forward_hooks = hooks


@contextmanager
def _hooked(point: HookPoint, function: SiteHook) -> Generator[None]:
    """Within the context, `function(activation)` is called at a hook point."""

    def call(acts: Tensor, hook: object) -> Tensor | None:
        return None if is_being_asked() else function(acts)

    add: Any = point.add_hook
    handle = add(call)
    try:
        yield
    finally:
        handle.hook.remove()
        point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]
