"""The site: reading with an early stop, and writing during forward passes and generation."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.sites import Site, read_sites

Hook = Callable[[object, Any, Tensor], Tensor | None]


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Ordinary tokens of the tiny tokenizer: no special ones."""
    return torch.randint(3, 259, shape, generator=torch.Generator().manual_seed(seed))


def random_like(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def original(tiny_model_folder: Path) -> LlamaForCausalLM:
    """The tiny model in transformers alone, as an oracle."""
    llama: Any = LlamaForCausalLM  # transformers leaves the types of its entry points open
    return llama.from_pretrained(tiny_model_folder, attn_implementation="eager").eval()


@contextmanager
def after_layer(original: LlamaForCausalLM, layer: int, hook: Hook) -> Generator[None]:
    """A plain torch hook on the output of a layer of the oracle."""
    handle = original.model.layers[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def no_hooks(model: LanguageModel) -> bool:
    return not any(point.has_hooks() for point in model.bridge.hook_dict.values())


def test_the_default_site_is_the_middle_layer(tiny_model: LanguageModel) -> None:
    site = tiny_model.site()
    assert (site.name, site.layer, site.width) == ("blocks.1.hook_resid_post", 1, 32)
    assert site.model is tiny_model
    assert (
        site
        == tiny_model.site("blocks.1.hook_resid_post")
        != tiny_model.site("blocks.1.hook_resid_pre")
    )


def test_site_names_are_in_the_order_of_computation(
    tiny_model: LanguageModel, other_model: LanguageModel
) -> None:
    kinds = ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    expected = [f"blocks.{layer}.hook_{kind}" for layer in range(3) for kind in kinds]
    assert tiny_model.site_names == expected
    assert set(other_model.site_names) <= set(expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.hook_resid_pots", "try blocks.1.hook_resid_post"),
        ("blocks.3.hook_resid_post", r"its layers are 0 to 2, so try blocks.2.hook_resid_post"),
        ("zzz", "try blocks.1.hook_resid_post"),
        ("", "try blocks.1.hook_resid_post"),
        ("blocks.1.attn.hook_z", "try blocks.1"),
    ],
)
def test_an_unknown_site_names_the_nearest(
    tiny_model: LanguageModel, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tiny_model.site(name)
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_reading_gives_the_activations_of_transformers(
    tiny_model: LanguageModel, original: LlamaForCausalLM, layer: int
) -> None:
    tokens = random_tokens(3, 21)
    seen: list[Tensor] = []

    def see(module: object, inputs: Any, output: Tensor) -> None:
        seen.append(output)

    with after_layer(original, layer, see), torch.no_grad():
        states = original(tokens, output_hidden_states=True).hidden_states
    after = tiny_model.site(f"blocks.{layer}.hook_resid_post").read(tokens)
    before = tiny_model.site(f"blocks.{layer}.hook_resid_pre").read(tokens)
    torch.testing.assert_close(after, seen[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(before, states[layer], rtol=0, atol=1e-6)
    assert not after.requires_grad


def test_what_attention_and_mlp_add_makes_the_residual_stream(tiny_model: LanguageModel) -> None:
    sites = [tiny_model.site(name) for name in tiny_model.site_names[5:10]]
    acts = read_sites(tiny_model, sites, random_tokens(2, 13))
    before, attention, middle, mlp, after = acts.values()
    torch.testing.assert_close(before + attention, middle)
    torch.testing.assert_close(middle + mlp, after)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", ["resid_pre", "resid_post"])
def test_nothing_behind_the_site_is_run(tiny_model: LanguageModel, layer: int, kind: str) -> None:
    runs: list[str] = []
    model: Any = tiny_model.bridge.original_model
    modules = {
        **{f"attention {i}": model.model.layers[i].self_attn for i in range(3)},
        **{f"mlp {i}": model.model.layers[i].mlp for i in range(3)},
        "norm": model.model.norm,
        "head": model.lm_head,
    }

    def counter(name: str) -> Callable[[object, object], None]:
        def count(module: object, inputs: object) -> None:
            runs.append(name)

        return count

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(counter(name)).remove)
        tiny_model.site(f"blocks.{layer}.hook_{kind}").read(random_tokens(2, 5))
        last = layer + (kind == "resid_post")
        assert runs == [f"{part} {i}" for i in range(last) for part in ("attention", "mlp")]
        runs.clear()
        tiny_model.logits(random_tokens(2, 5))
        assert len(runs) == 8 and runs[-1] == "head"  # all of them are counted


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=2, max_size=5).filter(any),
    side=st.sampled_from(["left", "right"]),
    layer=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
def test_padded_rows_have_the_activations_of_each_row_alone(
    tiny_model: LanguageModel, lengths: list[int], side: str, layer: int, seed: int
) -> None:
    check_padding(tiny_model.site(f"blocks.{layer}.hook_resid_post"), lengths, side, seed)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_in_other_architectures(other_model: LanguageModel, side: str) -> None:
    for name in other_model.site_names:
        check_padding(other_model.site(name), [3, 11, 1, 0, 6], side, seed=0)


def check_padding(site: Site, lengths: list[int], side: str, seed: int) -> None:
    width = max(lengths)
    tokens = random_tokens(len(lengths), width, seed=seed)
    columns, ends = torch.arange(width), torch.tensor(lengths)[:, None]
    mask = columns < ends if side == "right" else columns >= width - ends
    acts = site.read(tokens.where(mask, torch.tensor(0)), mask)
    assert bool(acts.isfinite().all())
    for row, length in enumerate(lengths):
        if length:
            alone = site.read(tokens[row : row + 1, mask[row]])
            torch.testing.assert_close(acts[row, mask[row]], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.download
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_in_the_default_model(default_model: LanguageModel, side: str) -> None:
    site = default_model.site()
    texts = ["Hello", "The cat sat on the mat and then it", "A longer one, " * 30]
    rows = [default_model.tokenize(text) for text in texts]
    width = max(len(row) for row in rows)
    tokens, mask = torch.full((3, width), 2), torch.zeros(3, width, dtype=torch.bool)
    for i, row in enumerate(rows):
        part = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        tokens[i, part], mask[i, part] = torch.tensor(row), True
    acts = site.read(tokens, mask)
    for i, row in enumerate(rows):
        alone = site.read(torch.tensor([row]))[0]
        error = (acts[i, mask[i]] - alone).square().sum(-1) / alone.square().sum(-1)
        assert bool((error < 1e-8).all())


@pytest.mark.download
@pytest.mark.parametrize("with_bos", [True, False])
def test_what_is_left_out_holds_the_default_models_abnormal_norms(
    default_model: LanguageModel, with_bos: bool
) -> None:
    text = "The committee met on Tuesday. It heard three witnesses, and adjourned at noon. "
    bos = [default_model.bos_id] if with_bos else []
    tokens = torch.tensor([bos + default_model.tokenize(word + text * 5) for word in ("So ", "I ")])
    acts = default_model.site().read(tokens)
    norms = acts.square().sum(-1).sqrt()
    kept = ~default_model.excluded_tokens(tokens)
    median = norms[kept].median()
    assert bool((norms[kept] < 2 * median).all())
    assert bool((norms[:, 0] > 50 * median).all())


def test_several_sites_at_once_equal_each_alone(tiny_model: LanguageModel) -> None:
    tokens = random_tokens(3, 7)
    names = ["blocks.1.hook_resid_post", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"]
    sites = [tiny_model.site(name) for name in names]
    acts = read_sites(tiny_model, sites, tokens)
    assert acts.keys() == set(names)
    for site in sites:
        assert torch.equal(acts[site.name], site.read(tokens))
    assert no_hooks(tiny_model)


@pytest.mark.parametrize("layer", [0, 2])
def test_writing_is_a_hook_on_the_layer(
    tiny_model: LanguageModel, original: LlamaForCausalLM, layer: int
) -> None:
    tokens, vector = random_tokens(3, 11), random_like((32,))
    plain = tiny_model.logits(tokens)

    def add(module: object, inputs: Any, output: Tensor) -> Tensor:
        return output + vector

    with after_layer(original, layer, add), torch.no_grad():
        expected = original(tokens).logits
    with tiny_model.site(f"blocks.{layer}.hook_resid_post").write(lambda acts: acts + vector):
        found = tiny_model.logits(tokens)
        losses = tiny_model.next_token_loss(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    logprobs = expected[:, :-1].log_softmax(-1)
    expected_losses = -logprobs.gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-4)
    assert float((found - plain).abs().max()) > 0.1
    # Outside the context, the model is what it was, bit for bit.
    assert torch.equal(tiny_model.logits(tokens), plain)
    assert no_hooks(tiny_model)


def test_writing_what_was_read_changes_nothing(tiny_model: LanguageModel) -> None:
    tokens = random_tokens(2, 9)
    for name in tiny_model.site_names:
        with tiny_model.site(name).write(lambda acts: acts):
            written = tiny_model.logits(tokens)
        assert torch.equal(written, tiny_model.logits(tokens))


def test_contexts_nest_and_the_outer_edit_comes_first(tiny_model: LanguageModel) -> None:
    site, tokens = tiny_model.site(), random_tokens(2, 9)
    plain = site.read(tokens)
    with site.write(lambda acts: acts + 1):
        once = site.read(tokens)
        with site.write(lambda acts: acts * 2):
            twice = site.read(tokens)
        assert torch.equal(site.read(tokens), once)
    assert torch.equal(once, plain + 1)
    assert torch.equal(twice, (plain + 1) * 2)
    assert torch.equal(site.read(tokens), plain)


def test_two_added_vectors_equal_their_sum(tiny_model: LanguageModel) -> None:
    site, tokens = tiny_model.site(), random_tokens(2, 9)
    one, other = random_like((32,), 1), random_like((32,), 2)
    with site.write(lambda acts: acts + one), site.write(lambda acts: acts + other):
        nested = tiny_model.logits(tokens)
    with site.write(lambda acts: acts + (one + other)):
        together = tiny_model.logits(tokens)
    torch.testing.assert_close(nested, together, rtol=1e-4, atol=1e-4)


def test_an_edit_upstream_is_seen_downstream(tiny_model: LanguageModel) -> None:
    first, second = (tiny_model.site(f"blocks.{i}.hook_resid_post") for i in (0, 1))
    tokens = random_tokens(2, 9)
    plain = second.read(tokens)
    with first.write(lambda acts: acts + 1):
        assert not torch.allclose(second.read(tokens), plain)
    with second.write(lambda acts: acts + 1):
        assert torch.equal(second.read(tokens), plain + 1)


@pytest.mark.parametrize("error", [RuntimeError("in the edit"), KeyboardInterrupt()])
def test_an_exception_restores_the_model(tiny_model: LanguageModel, error: BaseException) -> None:
    site, tokens = tiny_model.site(), random_tokens(2, 9)
    plain = tiny_model.logits(tokens)

    def fail(acts: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error)) as caught, site.write(fail):
        tiny_model.logits(tokens)
    assert caught.value is error
    with pytest.raises(type(error)), site.write(lambda acts: acts + 1):
        raise error
    assert torch.equal(tiny_model.logits(tokens), plain)
    assert no_hooks(tiny_model)


@pytest.mark.parametrize("wrong", ["shape", "dtype"])
def test_an_edit_that_changes_shape_or_dtype_is_an_error(
    tiny_model: LanguageModel, wrong: str, without_type_checks: None
) -> None:
    edits: dict[str, Callable[[Tensor], Tensor]] = {
        "shape": lambda acts: acts[:, :1],
        "dtype": lambda acts: acts.double(),
    }
    with (
        tiny_model.site().write(edits[wrong]),
        pytest.raises(ValueError, match=r"the edit at blocks.1.hook_resid_post made .*must stay"),
    ):
        tiny_model.logits(random_tokens(2, 9))


def test_gradients_reach_an_edit(tiny_model: LanguageModel) -> None:
    vector = torch.zeros(32, requires_grad=True)
    with tiny_model.site().write(lambda acts: acts + vector):
        total = tiny_model.run(random_tokens(2, 9)).logsumexp(-1).sum()
    (gradient,) = torch.autograd.grad(total, vector)
    assert bool((gradient != 0).all())


def greedy_without_cache(model: LanguageModel, tokens: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        best = model.logits(tokens)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, best], dim=1)
    return tokens


# The bridge still passes transformers the key-value cache by its old name.
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
def test_writing_applies_to_every_step_of_cached_generation(tiny_model: LanguageModel) -> None:
    tokens, vector, steps = random_tokens(1, 6), 3 * random_like((32,)), 12
    lengths: list[int] = []

    def edit(acts: Tensor) -> Tensor:
        lengths.append(acts.shape[1])
        return acts + vector

    bridge: Any = tiny_model.bridge
    options = {"max_new_tokens": steps, "do_sample": False}
    plain = greedy_without_cache(tiny_model, tokens, steps)
    with tiny_model.site().write(edit):
        generated = bridge.generate(tokens, verbose=False, stop_at_eos=False, **options)
        assert lengths == [6] + [1] * (steps - 1)
        lengths.clear()
        model = bridge.original_model
        by_transformers = model.generate(tokens, eos_token_id=None, pad_token_id=0, **options)
        assert lengths == [6] + [1] * (steps - 1)
        uncached = greedy_without_cache(tiny_model, tokens, steps)
    assert not torch.equal(uncached, plain)
    assert torch.equal(generated, uncached)
    assert torch.equal(by_transformers, uncached)
    unsteered = bridge.generate(tokens, verbose=False, stop_at_eos=False, **options)
    assert torch.equal(unsteered, plain)
    assert no_hooks(tiny_model)
