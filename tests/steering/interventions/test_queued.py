"""On a device that queues, steering waits for no value between tokens, and steers alike."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import (
    BatchTopKConfig,
    GatedConfig,
    GroupMaxConfig,
    JumpReLUConfig,
    ReLUConfig,
    SAEConfig,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import Generation, generate
from sparsteer.steering.interventions import queued
from sparsteer.steering.interventions.edits.latents import latent_activations
from sparsteer.steering.interventions.firing import LatentTable
from sparsteer.steering.interventions.intervention import TIERS, Intervention
from sparsteer.steering.interventions.steering import steer
from sparsteer.steering.texts import prompt_tokens

from .cases import F, features, gates, random_sae

SITE, EARLIER = "blocks.1.hook_resid_post", "blocks.0.hook_resid_post"
PROMPTS = ["You are", "The cat sat on", "x"]
DEFINED = ("topk", "jumprelu", "batch_topk", "relu")
"""Activations of which the number of values, or the latent's own threshold, is known beforehand."""
CONFIGS: dict[str, SAEConfig] = {
    "topk": TopKConfig(d_model=32, n_latents=F, k=9),
    "jumprelu": JumpReLUConfig(d_model=32, n_latents=F, fixed_thresholds=True),
    "batch_topk": BatchTopKConfig(d_model=32, n_latents=F, k=9),
    "relu": ReLUConfig(d_model=32, n_latents=F),
    "gated": GatedConfig(d_model=32, n_latents=F),
    "group_max": GroupMaxConfig(d_model=32, n_latents=F, k=8),
    "top_afa": TopAFAConfig(d_model=32, n_latents=F),
    "lista": TopKConfig(d_model=32, n_latents=F, k=9, lista_step=0.3),
}


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: reading a value, indexing by where a mask is
    true, and making a tensor of Python's numbers, which is copied to the device. It does not see
    `tolist` and copies of whole tensors."""

    WAITING = (
        *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "bincount"),
        *("lift_fresh", "unique_consecutive", "_unique2"),
    )

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - untyped
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING:
            self.counts[name] += 1
        if name in ("index", "index_put", "index_put_"):
            masks = [each for each in args[1] if each is not None and each.dtype == torch.bool]
            self.counts["masked index"] += len(masks)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.fixture
def on_queue(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def on(device: torch.device) -> bool:
        return True

    return lambda: monkeypatch.setattr(queued, "is_queued", on)


def autoencoder(name: str) -> SparseAutoencoder:
    sae = random_sae(32, CONFIGS[name])
    if "threshold" in dict(sae.named_buffers()):
        threshold = sae.get_buffer("threshold")
        threshold.copy_(torch.linspace(0.05, 0.6, max(1, threshold.numel())).view_as(threshold))
    return sae


def spec(tier: str, edit: str = "add") -> Intervention:
    return Intervention.of_features(
        site=SITE, features=features(0.5, -0.7, 0.3), tier=tier, threshold=0.01, edit=edit
    )


def waits_of_a_step(
    model: LanguageModel, intervention: Intervention | None, sae: SparseAutoencoder
) -> Counter[str]:
    """Those of the third token: by then everything is where it belongs."""
    rows = [prompt_tokens(model, prompt) for prompt in PROMPTS]
    sampling = Sampling(max_new_tokens=3, temperature=1.0, top_p=0.9, seed=1)
    generation = Generation(model, rows, sampling, intervention=intervention, sae=sae)
    generation.step()
    generation.step()
    with Waits() as waits:
        generation.step()
    return waits.counts


def test_what_waits_is_seen() -> None:
    mask = torch.tensor([True, False, True])
    values = torch.arange(3)
    for waiting in (
        lambda: bool(mask.all()),
        lambda: values[0].item(),
        lambda: values[mask],
        lambda: values.masked_fill_(mask, 0)[mask],
        lambda: mask.nonzero(),
        lambda: torch.tensor([1, 2]),
        lambda: values[[0, 2]],
        lambda: list(map(int, values)),
    ):
        with Waits() as waits:
            waiting()
        assert sum(waits.counts.values()) > 0


@pytest.mark.parametrize("name", DEFINED)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("edit", ["add", "clamp"])
def test_steering_adds_no_wait_to_a_token(
    model: LanguageModel, on_queue: Callable[[], None], name: str, tier: str, edit: str
) -> None:
    on_queue()
    sae = autoencoder(name)
    unsteered = waits_of_a_step(model, None, sae)
    assert waits_of_a_step(model, spec(tier, edit), sae) == unsteered


def test_gates_that_look_first_would_be_seen(model: LanguageModel) -> None:
    sae = autoencoder("jumprelu")
    unsteered = waits_of_a_step(model, None, sae)
    assert waits_of_a_step(model, spec("per_token"), sae) != unsteered


@pytest.mark.parametrize("name", sorted(gates(32, EARLIER, torch.randn(50, 32).double())))
def test_no_gate_adds_a_wait(model: LanguageModel, on_queue: Callable[[], None], name: str) -> None:
    on_queue()
    sae = autoencoder("topk")
    gate = gates(32, EARLIER, torch.randn(50, 32, generator=seeded(3)).double())[name]
    (edit,) = spec("constant").edits
    unsteered = waits_of_a_step(model, None, sae)
    assert waits_of_a_step(model, Intervention(edits=(edit,), gate=gate), sae) == unsteered


@pytest.mark.parametrize("tier", TIERS)
def test_a_run_adds_no_wait_either(
    model: LanguageModel, on_queue: Callable[[], None], tier: str
) -> None:
    """`steer` around passes of the model itself."""
    on_queue()
    sae = autoencoder("jumprelu")
    counts: list[Counter[str]] = []
    contexts: list[AbstractContextManager[object]] = [nullcontext(), steer(model, sae, spec(tier))]
    for context in contexts:
        tokens_BL = torch.tensor([prompt_tokens(model, "The cat sat on")])
        with context:
            model.network(tokens_BL, torch.ones_like(tokens_BL))
            with Waits() as waits:
                model.network(tokens_BL, torch.ones_like(tokens_BL))
        counts.append(waits.counts)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_latents_are_as_encode_gives_them(on_queue: Callable[[], None], name: str) -> None:
    sae = autoencoder(name)
    rows = 3 * torch.randn(3, 7, 32, generator=seeded(8), dtype=torch.float64)
    latents, thresholds = [[5, 8], [0], [5, 8, 39]], [[0.1, 0.0], [0.2], [0.0, 0.0, 0.3]]
    asked = torch.rand(3, 7, generator=seeded(9)) > 0.3
    table = LatentTable(sae, latents, thresholds)
    looked_first = table.activations(rows, asked)
    numbers = torch.tensor([5, 8, 39])
    edited = latent_activations(sae, rows, numbers)[0].detach()
    on_queue()
    every = table.activations(rows, asked)
    limits = table.thresholds_RP[:, None]
    assert torch.equal(every > limits, looked_first > limits)
    somewhere = (every > limits).any(dim=2)
    assert somewhere.any() and not somewhere.all() and not every[~asked].any()
    assert torch.allclose(every[somewhere], looked_first[somewhere], rtol=1e-12, atol=1e-12)
    now = latent_activations(sae, rows, numbers)[0].detach()
    assert torch.allclose(now, edited, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["topk", "jumprelu", "gated"])
@pytest.mark.parametrize("tier", TIERS)
def test_texts_are_the_same(
    model: LanguageModel, on_queue: Callable[[], None], name: str, tier: str
) -> None:
    sae, intervention = autoencoder(name), spec(tier)
    sampling = Sampling(max_new_tokens=6, temperature=1.0, seed=4)
    before = generate(model, PROMPTS, sampling, intervention=intervention, sae=sae)
    on_queue()
    assert generate(model, PROMPTS, sampling, intervention=intervention, sae=sae) == before


def test_edits_of_latents_have_the_gradients_of_encode(on_queue: Callable[[], None]) -> None:
    sae = autoencoder("jumprelu")
    rows = 3 * torch.randn(2, 4, 32, generator=seeded(1), dtype=torch.float64)
    numbers = torch.tensor([5, 8, 11])
    weights = torch.randn(2, 4, 3, generator=seeded(2), dtype=torch.float64)

    def gradient() -> Tensor:
        leaf = rows.clone().requires_grad_()
        total = (latent_activations(sae, leaf, numbers)[0] * weights).sum()
        total.backward()  # pyright: ignore[reportUnknownMemberType] - untyped
        assert leaf.grad is not None
        return leaf.grad

    encoded = gradient()
    on_queue()
    assert encoded.abs().max() > 0
    assert torch.allclose(gradient(), encoded, rtol=1e-10, atol=1e-12)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
