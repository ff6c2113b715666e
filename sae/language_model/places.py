"""Where the activations of sites pass in a model of transformers, found by what its layers add up.

Layers of different families name their parts differently, and put norms and dropout behind them. So
a model is run on a few tokens, and the sums are looked at: where a layer's output is, to the last
bit, its input plus the outputs of two modules, these are what attention and MLP add to the residual
stream, as TransformerLens means them. A layer that adds otherwise (a sum of three, one times a
factor) has its input and output as sites, and no others.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..common.errors import InputError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """The input or the output of a module, which is an activation [B, L, D] or begins with one."""

    module: nn.Module
    is_input: bool = False
    flat_in: nn.Module | None = None
    """The layer, where the module has the activation as [B * L, D]."""


def decoder_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The decoder layers of a model, in order: of the lists of modules with as many members as its
    configuration states layers, the outermost one.

    Raises InputError where there is none.
    """
    network: Any = model
    n_layers: object = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    for root in (network.get_decoder(), network.base_model, network):
        named: Any = root
        modules: Any = named.named_modules()
        lists: list[tuple[int, int, list[nn.Module]]] = [
            (name.count("."), number, list(module))
            for number, (name, module) in enumerate(modules)
            if isinstance(module, nn.ModuleList) and len(module) == n_layers
        ]
        if lists:
            return min(lists)[2]
    raise InputError(
        f"{type(model).__name__} has no list of {n_layers} decoder layers, so its residual stream "
        "cannot be found; load it by name with LanguageModel.load, which runs it in "
        "TransformerLens' bridge"
    )


def hidden_input(inputs: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    """The activation that a module is called with: its first argument, or `hidden_states`."""
    value = inputs[0] if inputs else given.get("hidden_states")
    return value if isinstance(value, Tensor) else None


def hidden_output(output: object) -> Tensor | None:
    """The activation that a module gives: its output, or the first of several."""
    if isinstance(output, tuple | list) and output:
        output = cast(Sequence[object], output)[0]
    return output if isinstance(output, Tensor) else None


@dataclass
class _Seen:
    """What passed in one layer: its input and output, and those of the modules in it, in order."""

    layer: nn.Module
    pre_BLD: Tensor | None = None
    post_BLD: Tensor | None = None
    outputs: list[tuple[Place, Tensor]] = field(default_factory=list[tuple[Place, Tensor]])
    inputs: list[tuple[Place, Tensor, int]] = field(default_factory=list[tuple[Place, Tensor, int]])
    """With the number of outputs before."""

    def enter(self, module: nn.Module, inputs: tuple[Any, ...], given: dict[str, Any]) -> None:
        """A hook on the call of a module."""
        acts = hidden_input(inputs, given)
        if module is self.layer:
            self.pre_BLD = None if acts is None else acts.clone()
        elif acts is not None and self._is_like_input(acts):
            self.inputs.append(
                (self._place(module, acts, True), self._copy(acts), len(self.outputs))
            )

    def leave(self, module: nn.Module, inputs: object, output: object) -> None:
        """A hook on the output of a module."""
        acts = hidden_output(output)
        if acts is not None and self._is_like_input(acts):
            if module is self.layer:
                self.post_BLD = self._copy(acts)
            else:
                self.outputs.append((self._place(module, acts, False), self._copy(acts)))

    def _is_like_input(self, acts: Tensor) -> bool:
        """Whether it may be one of the activations that the layer adds up."""
        pre_BLD = self.pre_BLD
        return (
            pre_BLD is not None
            and acts.shape[-1:] == pre_BLD.shape[-1:]
            and acts.numel() == pre_BLD.numel()
        )

    def _place(self, module: nn.Module, acts: Tensor, is_input: bool) -> Place:
        return Place(module, is_input, None if acts.ndim == 3 else self.layer)

    def _copy(self, acts: Tensor) -> Tensor:
        """Later sums may be taken in place."""
        return acts.clone().view_as(cast(Tensor, self.pre_BLD))


@torch.no_grad()
def find_places(
    model: PreTrainedModel, layers: Sequence[nn.Module], tokens: Int[Tensor, "B L"]
) -> dict[tuple[int, str], Place]:
    """The places by layer and kind (`resid_pre` ...), from one forward pass over any tokens."""
    # What several layers share does not say which of them runs.
    n_uses = Counter(id(module) for layer in layers for module in layer.modules())
    all_seen = [_Seen(layer) for layer in layers]
    network: Any = model
    with ExitStack() as stack:
        for seen in all_seen:
            for module in seen.layer.modules():
                if n_uses[id(module)] == 1:
                    handle = module.register_forward_pre_hook(seen.enter, with_kwargs=True)
                    stack.callback(handle.remove)
                    stack.callback(module.register_forward_hook(seen.leave).remove)
        network(tokens, use_cache=False)
    places: dict[tuple[int, str], Place] = {}
    for number, seen in enumerate(all_seen):
        if seen.post_BLD is not None:
            places[number, "resid_pre"] = Place(seen.layer, is_input=True)
            places[number, "resid_post"] = Place(seen.layer)
            places |= {(number, kind): place for kind, place in _inside(seen).items()}
    return places


def _inside(seen: _Seen) -> dict[str, Place]:
    """The places of what attention and MLP add, and of the residual between them.

    Where a value passes through several modules, such as a projection, dropout and the whole of
    attention, it is the last one's.
    """
    pre_BLD, post_BLD = cast(Tensor, seen.pre_BLD), cast(Tensor, seen.post_BLD)
    times = Counter(id(place.module) for place, _ in seen.outputs)
    once = [(n, *found) for n, found in enumerate(seen.outputs) if times[id(found[0].module)] == 1]
    for n_before, attention, attention_BLD in reversed(once):
        middle_BLD = pre_BLD + attention_BLD
        for n_later, mlp, mlp_BLD in reversed(once):
            if n_later <= n_before:
                break
            found = {"attn_out": attention, "mlp_out": mlp}
            if torch.equal(middle_BLD + mlp_BLD, post_BLD):
                readers = [
                    place
                    for place, input_BLD, n_outputs in seen.inputs
                    if n_outputs > n_before and torch.equal(input_BLD, middle_BLD)
                ]
                return found | ({"resid_mid": readers[0]} if readers else {})
            if torch.equal(pre_BLD + (attention_BLD + mlp_BLD), post_BLD):
                return found
    return {}


def hook_place(place: Place, function: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
    """Call `function` with the activation of every pass; give what ends that. What it returns
    replaces the activation, None leaves it."""
    shape: list[torch.Size] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...], given: dict[str, Any]) -> None:
        shape[:] = [_required(hidden_input(inputs, given), layer).shape]

    def applied(acts: Tensor) -> Tensor | None:
        if place.flat_in is None:
            return function(acts)
        changed = function(acts.view(shape[0]))
        return None if changed is None else changed.view_as(acts)

    def enter(
        module: nn.Module, inputs: tuple[Any, ...], given: dict[str, Any]
    ) -> Arguments | None:
        changed = applied(_required(hidden_input(inputs, given), module))
        if changed is None:
            return None
        if inputs:
            return (changed, *inputs[1:]), given
        return inputs, {**given, "hidden_states": changed}

    def leave(module: nn.Module, inputs: object, output: Any) -> object:
        changed = applied(_required(hidden_output(output), module))
        if changed is None or isinstance(output, Tensor):
            return changed
        return type(output)((changed, *output[1:]))

    handles = ExitStack()
    if place.flat_in is not None:
        handle = place.flat_in.register_forward_pre_hook(note, with_kwargs=True)
        handles.callback(handle.remove)
    if place.is_input:
        handle = place.module.register_forward_pre_hook(enter, with_kwargs=True)
    else:
        handle = place.module.register_forward_hook(leave)
    handles.callback(handle.remove)
    return handles.close


def _required(acts: Tensor | None, module: nn.Module) -> Tensor:
    if acts is None:
        raise RuntimeError(f"no activation passes by {type(module).__name__} where it is hooked")
    return acts
