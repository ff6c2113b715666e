"""The engine: each request's text is its own, whatever else runs, joins, leaves or fails."""

import dataclasses
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.kv_cache import join_caches
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering import decoding
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import Generation
from sparsteer.steering.interventions.edits.base import EditRule
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import SteeredFeature
from sparsteer.steering.registries import EDITS
from sparsteer.steering.serving import Engine, GenerationRequest, QueueFull, TokenEvent, TokenStream
from sparsteer.steering.serving import engine as engine_module
from sparsteer.steering.texts import continuation_text, prompt_tokens

from ..interventions.cases import cap, edits, gates
from ..model_families import save_model
from ..plain_families import firing_spec, twins

SITE = "blocks.1.hook_resid_post"
PROMPTS = ("Hi", "The quick brown fox", "x", "a b c a b c " * 4, "?", "Where is it? ")


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    sae = SparseAutoencoder(TopKConfig(32, 96, 4), seed=5).double()
    sae.input_scale.fill_(0.21)
    return sae


@pytest.fixture
def engine(model: LanguageModel, sae: SparseAutoencoder) -> Iterator[Engine]:
    with Engine(model, sae, site=model.site(SITE), slots=4) as engine:
        yield engine


def spec(
    *latents: int, tier: str = "constant", strength: float = 2.0, site: str = SITE
) -> Intervention:
    features = tuple(
        SteeredFeature(index=latent, strength=strength, max_activation=3.0) for latent in latents
    )
    return Intervention.of_features(site=site, features=features, tier=tier)


def request(model: LanguageModel, prompt: str, **given: Any) -> GenerationRequest:
    fields = {
        name: given.pop(name)
        for name in ("intervention", "n", "logprobs", "watch")
        if name in given
    }
    settings: dict[str, Any] = {"max_new_tokens": 8, **given}
    sampling = Sampling(**settings)
    return GenerationRequest(
        prompt=tuple(prompt_tokens(model, prompt)), sampling=sampling, **fields
    )


def tokens_of(events: Sequence[TokenEvent], choice: int = 0) -> list[int]:
    return [e.token for e in events if e.choice == choice and e.token is not None]


def text_of(events: Sequence[TokenEvent], choice: int = 0) -> str:
    return "".join(event.text for event in events if event.choice == choice)


def alone(engine: Engine, asked: GenerationRequest, choice: int = 0) -> list[int]:
    """The tokens that `Generation` gives for the request, in a batch of its own."""
    seeded = dataclasses.replace(asked.sampling, seed=asked.sampling.seed + choice)
    made = Generation(
        engine.model,
        [asked.prompt],
        seeded,
        intervention=asked.intervention,
        sae=engine.sae if asked.intervention else None,
    )
    while not made.done:
        with engine.exclusive():
            made.step()
    return made.generated[0]


def some_requests(
    model: LanguageModel, specs: Sequence[Intervention | None], draw: random.Random, n: int
) -> list[GenerationRequest]:
    samplings: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9},
        {"temperature": 1.2, "top_k": 20},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.1, "min_p": 0.02, "repetition_penalty": 1.4},
        {"repetition_penalty": 1.6},
    ]
    return [
        request(
            model,
            draw.choice(PROMPTS),
            intervention=draw.choice(specs),
            n=draw.choice((1, 1, 2)),
            max_new_tokens=draw.randint(1, 12),
            seed=draw.randint(0, 3),
            **draw.choice(samplings),
        )
        for _ in range(n)
    ]


def require_equal_alone(
    engine: Engine, requests: Sequence[GenerationRequest], draw: random.Random
) -> None:
    """Submit in a random order, with random pauses, and compare each with itself alone."""
    streams: list[tuple[GenerationRequest, TokenStream]] = []
    for asked in draw.sample(requests, len(requests)):
        streams.append((asked, engine.submit(asked)))
        time.sleep(draw.choice((0.0, 0.0, 0.01)))
    for asked, stream in streams:
        events = list(stream)
        for choice in range(asked.n):
            assert tokens_of(events, choice) == alone(engine, asked, choice)
    assert engine.state.slots_in_use == engine.state.waiting == 0


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_kind_of_edit_and_gate_is_a_row_s_own(
    model: LanguageModel, sae: SparseAutoencoder, engine: Engine, seed: int
) -> None:
    """Several sites, gates of one's own, positions and a cap among them."""
    draw = random.Random(seed)
    earlier = "blocks.0.hook_resid_post"
    tokens = torch.tensor([prompt_tokens(model, " ".join(PROMPTS))])
    rows = model.site(SITE).read(tokens)[0, 2:]
    known, open_at = edits(32, SITE, rows), gates(32, earlier, rows)
    first = edits(32, earlier, rows)["project_out"]
    latent = dataclasses.replace(known["clamp"], gate=open_at["per_token"])
    specs = [Intervention(edits=(each,)) for each in known.values()]
    specs += [Intervention(edits=(known["add_norm"],), gate=gate) for gate in open_at.values()]
    specs += [
        Intervention(edits=(latent, first), gate=open_at["cosine_prompt"]),
        Intervention(edits=(known["rotate"],), gate=open_at["per_input"], positions="generated"),
        Intervention(edits=(known["add"],), positions="last"),
        Intervention(edits=(known["add"], known["lowrank"]), cap=cap(rows, 0.8)),
    ]
    chosen = draw.sample(specs, 8) + specs[-4:]
    n = 14 if seed else 8
    require_equal_alone(engine, some_requests(model, [None, *chosen], draw, n), draw)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.slow_except("0")
def test_texts_together_are_those_alone(
    model: LanguageModel, sae: SparseAutoencoder, engine: Engine, seed: int
) -> None:
    draw = random.Random(seed)
    specs = [
        None,
        spec(3),
        spec(4, strength=-1.5),
        spec(3, 9, tier="per_input"),
        spec(5, 11, tier="per_token"),
        spec(7, tier="per_input", site="blocks.0.hook_resid_post"),
        spec(6, strength=0.0),
    ]
    require_equal_alone(engine, some_requests(model, specs, draw, 14), draw)


# Among them a window of attention, no cache that works (mamba), and no padding allowed (rwkv).
FAMILIES = ("llama", "gpt2", "gemma3_text", "bloom", "mamba", "rwkv")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_in_float32(family: str) -> None:
    both = twins(family)
    with warnings.catch_warnings(action="ignore"):  # that it is slower without a cache
        both.plain.kv_cache_works, both.plain.rows_join  # noqa: B018  # pyright: ignore
    sae, gated = firing_spec(both, "per_input", both.plain.site().name)
    draw = random.Random(family)
    specs = [None, gated] + [
        Intervention.of_features(site=gated.site, features=gated.features, tier=tier)
        for tier in ("constant", "per_token")
    ]
    with Engine(both.plain, sae, site=both.plain.site(), slots=3) as engine:
        require_equal_alone(engine, some_requests(both.plain, specs, draw, 8), draw)


def test_a_family_that_takes_padding_for_text_runs_its_texts_in_turns(
    model: LanguageModel, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(model, sae, site=model.site(SITE), slots=3) as engine:
        monkeypatch.setattr(engine.model, "rows_join", False)
        monkeypatch.setattr(engine.model, "wrong_padding", frozenset({"left"}))
        draw = random.Random(4)
        require_equal_alone(engine, some_requests(model, [None, spec(3)], draw, 6), draw)


def test_requests_share_forward_passes(model: LanguageModel, sae: SparseAutoencoder) -> None:
    """Sixteen requests, each steered by another feature, take as many passes as the longest."""
    widths: list[int] = []

    def note_width(module: object, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        widths.append(len(args[0] if args else given["input_ids"]))

    with Engine(model, sae, site=model.site(SITE), slots=16) as engine:
        network: Any = engine.model.network.model
        list(engine.submit(request(model, "Hi", max_new_tokens=1)))
        with engine.exclusive():
            streams = [
                engine.submit(request(model, "Hi", intervention=spec(n), max_new_tokens=6, seed=n))
                for n in range(16)
            ]
            time.sleep(0.05)
            handle = network.register_forward_pre_hook(note_width, with_kwargs=True)
        lengths = [len(tokens_of(list(stream))) for stream in streams]
        handle.remove()
    assert widths.count(16) >= 3 and len(widths) <= max(lengths) + 4


# Text, stop strings, log-probabilities


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_pieces_make_the_text_of_the_tokens(engine: Engine, temperature: float) -> None:
    for prompt in PROMPTS:
        asked = request(engine.model, prompt, max_new_tokens=14, temperature=temperature)
        events = list(engine.submit(asked))
        ids = tokens_of(events)
        assert text_of(events) == continuation_text(engine.model, asked.prompt, ids)
        assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
        assert events[-1].finish_reason == ("length" if len(ids) == 14 else "eos")


def test_a_stop_string_over_tokens_ends_the_text_and_is_never_shown(engine: Engine) -> None:
    asked = request(engine.model, "The quick brown fox", max_new_tokens=14, temperature=0.9, seed=2)
    whole = text_of(list(engine.submit(asked)))
    pieces = [piece for piece in whole.split("\ufffd") if len(piece) > 3]
    assert pieces
    for start in range(len(pieces[0]) - 2):
        stop = pieces[0][start : start + 3]  # A token is a byte.
        asked = request(
            engine.model,
            "The quick brown fox",
            max_new_tokens=14,
            temperature=0.9,
            seed=2,
            stop=("\x00never", stop),
        )
        events = list(engine.submit(asked))
        assert text_of(events) == whole[: whole.index(stop)]
        assert events[-1].finish_reason == "stop"


def test_logprobs_are_the_log_softmax_of_the_steered_logits(
    model: LanguageModel, sae: SparseAutoencoder, engine: Engine
) -> None:
    asked = request(
        model, "The quick", intervention=spec(3), logprobs=4, temperature=0.7, top_k=9, seed=3
    )
    events = list(engine.submit(asked))
    ids = list(asked.prompt) + tokens_of(events)
    from sparsteer.steering.interventions.steering import steer

    with engine.exclusive(), steer(engine.model, sae, spec(3)):
        logprobs_LV = engine.model.logits(torch.tensor([ids]))[0].log_softmax(-1)
    for place, event in enumerate(events):
        if event.token is None:
            continue
        expected_V = logprobs_LV[len(asked.prompt) - 1 + place]
        assert event.logprob == pytest.approx(float(expected_V[event.token]), abs=1e-9)
        best: Any = expected_V.topk(4)
        assert [i for i, _ in event.top_logprobs] == best.indices.tolist()
        assert [p for _, p in event.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-9)


def test_watched_latents_are_what_encode_says_before_steering(
    model: LanguageModel, sae: SparseAutoencoder, engine: Engine
) -> None:
    watch = tuple(range(96))
    often = [0] * 96
    for event in engine.submit(request(model, "The quick", watch=watch, temperature=0.9)):
        often = [
            n + (act > 0) for n, act in zip(often, event.activations or (0,) * 96, strict=True)
        ]
    latent = next(latent for latent in watch if 0 < often[latent] < 5)
    gated = spec(latent, tier="per_token", strength=0.2)
    for intervention in (None, gated):
        asked = request(model, "The quick", intervention=intervention, watch=watch, temperature=0.9)
        beside = engine.submit(request(model, "x", intervention=spec(8)))
        events = list(engine.submit(asked))
        list(beside)
        ids = list(asked.prompt) + tokens_of(events)
        assert tokens_of(events) == alone(engine, asked)
        if intervention is None:
            with torch.no_grad():
                h_LD = engine.site.read(torch.tensor([ids]))[0]
                acts_LF = sae.encode(h_LD).dense(96)
            excluded_L = engine.model.excluded_tokens(torch.tensor([ids]))[0]
            acts_LF = acts_LF.masked_fill(excluded_L[:, None], 0.0)
            for place, event in enumerate(e for e in events if e.token is not None):
                found = torch.tensor(event.activations, dtype=torch.float64)
                torch.testing.assert_close(found, acts_LF[len(asked.prompt) + place])
                assert event.steered is False
        else:
            for event in events:
                if event.token is not None:
                    assert event.steered == (event.activations[latent] > 0)
            assert len({event.steered for event in events if event.token is not None}) == 2


def test_n_texts_draw_with_seeds_one_after_another(engine: Engine) -> None:
    together = list(engine.submit(request(engine.model, "Hi", n=3, temperature=1.0, seed=5)))
    for choice in range(3):
        one = list(engine.submit(request(engine.model, "Hi", temperature=1.0, seed=5 + choice)))
        assert tokens_of(one) == tokens_of(together, choice)
        assert text_of(one) == text_of(together, choice)
    assert len({tuple(tokens_of(together, choice)) for choice in range(3)}) == 3


# Failures, limits, ends


def test_a_request_that_fails_ends_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(EditRule):
        needs_features = True

        def change(self, h_BLD: Tensor) -> Tensor:
            raise ValueError("it broke")

    monkeypatch.setattr(EDITS, "_values", {"broken_here": Broken})  # in this test alone
    good = [
        request(engine.model, prompt, intervention=spec(3), max_new_tokens=20)
        for prompt in PROMPTS[:3]
    ]
    broken_spec = Intervention.of_features(site=SITE, features=spec(4).features, edit="broken_here")
    streams = [engine.submit(good[0])]
    huge = engine.submit(request(engine.model, "Hi", intervention=spec(4, strength=1e308), n=2))
    failing = engine.submit(request(engine.model, "Hi", intervention=broken_spec))
    streams += [engine.submit(asked) for asked in good[1:]]
    with pytest.raises(InputError, match=r"feature 4 at \+1e\+308 .*; lower the strength"):
        list(huge)
    with pytest.raises(ValueError, match="it broke"):
        list(failing)
    for asked, stream in zip(good, streams, strict=True):
        assert tokens_of(list(stream)) == alone(engine, asked)


def running_and_newcomer(engine: Engine) -> tuple[GenerationRequest, list[TokenEvent]]:
    """A text that runs while a longer prompt joins and fails; its request and its events."""
    asked = request(engine.model, "Hi", intervention=spec(3, tier="per_input"), max_new_tokens=40)
    stream = iter(running := engine.submit(asked))
    events = [next(stream)]
    newcomer = engine.submit(request(engine.model, PROMPTS[3], max_new_tokens=30, n=2))
    with pytest.raises(RuntimeError, match=r"Sizes of tensors|out of memory"):
        list(newcomer)
    assert not running.failed
    return asked, events + list(stream)


def test_a_batch_stays_where_a_newcomer_cannot_join(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_failed: list[int] = []

    def failing_at_the_last_layer(mine: Any, theirs: Any) -> None:
        theirs.layers[-1].values = theirs.layers[-1].values[..., :1]
        n_failed.append(1)
        join_caches(mine, theirs)

    list(engine.submit(request(engine.model, "Hi", max_new_tokens=1)))
    monkeypatch.setattr(decoding, "join_caches", failing_at_the_last_layer)
    asked, events = running_and_newcomer(engine)
    assert n_failed and tokens_of(events) == alone(engine, asked)


def test_a_batch_goes_on_without_the_last_where_a_pass_fails(engine: Engine) -> None:
    list(engine.submit(request(engine.model, "Hi", max_new_tokens=1)))
    network: Any = engine.model.network
    failed: list[int] = []

    def full(module: object, args: tuple[Tensor, ...]) -> None:
        if args[0].shape[0] == 3:
            failed.append(1)
            raise RuntimeError("out of memory")

    handle = network._layers[-1].register_forward_pre_hook(full)
    asked, events = running_and_newcomer(engine)
    handle.remove()
    assert failed == [1] and tokens_of(events) == alone(engine, asked)


def test_prompts_are_read_in_passes_of_a_limited_size(
    model: LanguageModel, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_MOST_READ", 100)
    read: list[tuple[int, int]] = []

    def note(module: object, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        tokens: Tensor = args[0] if args else given["input_ids"]
        read.append((tokens.shape[0], tokens.shape[1]))

    with Engine(model, sae, site=model.site(SITE), slots=8) as engine:
        network: Any = engine.model.network.model
        list(engine.submit(request(model, "Hi", max_new_tokens=1)))
        handle = network.register_forward_pre_hook(note, with_kwargs=True)
        with engine.exclusive():
            streams = [engine.submit(request(model, "a b c " * 7)) for _ in range(7)]
            time.sleep(0.05)
        for stream in streams:
            list(stream)
        handle.remove()
    prompts = [(rows, columns) for rows, columns in read if columns > 1]
    assert sum(rows for rows, _ in prompts) == 7 and max(rows for rows, _ in prompts) > 1
    assert all(rows * columns <= 100 for rows, columns in prompts)


def test_what_cannot_be_is_refused_before_it_waits(model: LanguageModel, engine: Engine) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: request(model, "Hi", intervention=spec(96)), "there is no feature 96; .* 0 to 95"),
        (
            lambda: request(model, "Hi", intervention=spec(1, site="blocks.9.hook_resid_post")),
            "no site",
        ),
        (lambda: request(model, "Hi", watch=(96,)), "no feature 96 to watch"),
        (lambda: request(model, "Hi", n=5), "n is 5; at most 4 texts"),
        (lambda: request(model, "Hi", max_new_tokens=600), "max_new_tokens is 600"),
        (lambda: request(model, "Hi", logprobs=21), "logprobs is 21; give at most 20"),
        (lambda: GenerationRequest(prompt=()), "a prompt has no token"),
        (lambda: GenerationRequest(prompt=(1, 999)), "id 999"),
    ]
    for make, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            engine.submit(make())  # pyright: ignore[reportArgumentType]
    assert engine.state.waiting == 0


def test_an_abort_ends_after_the_token_in_hand(engine: Engine) -> None:
    asked = request(engine.model, "Hi", max_new_tokens=400, repetition_penalty=1.01)
    kept = request(engine.model, "x", max_new_tokens=60, intervention=spec(3))
    beside, stream = engine.submit(kept), engine.submit(asked)
    events: list[TokenEvent] = []
    in_hand = 0
    for event in stream:
        events.append(event)
        if len(events) == 5:
            stream.cancel()
            in_hand = engine.state.tokens_generated
    assert events[-1].finish_reason == "cancelled" and events[-1].token is None
    assert len(events) < 60
    assert engine.state.tokens_generated - in_hand <= 2 * (len(events) - 5) + 4
    assert tokens_of(list(beside)) == alone(engine, kept)


def test_the_queue_has_a_limit_and_those_who_left_it_leave_room(
    model: LanguageModel, sae: SparseAutoencoder
) -> None:
    with Engine(model, sae, site=model.site(SITE), slots=1, queue=2) as engine:
        with engine.exclusive():  # nothing runs
            streams = [engine.submit(request(model, "Hi", max_new_tokens=3)) for _ in range(3)]
            with pytest.raises(QueueFull, match="are waiting already; try again in a moment"):
                engine.submit(request(model, "Hi"))
            streams[-1].cancel()
            streams.append(engine.submit(request(model, "x", max_new_tokens=3)))
        ended = [list(stream)[-1].finish_reason for stream in streams]
        assert ended[2] == "cancelled" and set(ended[:2] + ended[3:]) <= {"length", "eos"}


def test_a_closed_engine_ends_what_runs_and_takes_nothing(
    model: LanguageModel, sae: SparseAutoencoder
) -> None:
    from sparsteer.steering.serving.request import EngineClosed

    engine = Engine(model, sae, site=model.site(SITE), slots=1)
    streams = [
        engine.submit(request(model, "Hi", max_new_tokens=400, repetition_penalty=1.01))
        for _ in range(2)
    ]
    next(iter(streams[0]))
    engine.close()
    for stream in streams:
        with pytest.raises(EngineClosed):
            list(stream)
    with pytest.raises(EngineClosed):
        engine.submit(request(model, "Hi"))


def test_others_who_use_the_model_see_it_unsteered(engine: Engine) -> None:
    """While texts are steered, another thread reads the site."""
    ids = torch.tensor([prompt_tokens(engine.model, "The quick")])
    expected = engine.site.read(ids)
    stream = engine.submit(
        request(engine.model, "Hi", max_new_tokens=80, intervention=spec(3, strength=30.0))
    )
    seen: list[bool] = []

    def look() -> None:
        for _ in range(10):
            seen.append(torch.equal(engine.site.read(ids), expected))

    thread = threading.Thread(target=look)
    thread.start()
    list(stream)
    thread.join()
    assert seen == [True] * 10


def test_an_engine_of_a_folder_says_when_texts_run_on_their_own(
    tmp_path: Path, sae: SparseAutoencoder
) -> None:
    save_model("rwkv", tmp_path / "rwkv")
    said: list[str] = []
    model = LanguageModel.load(str(tmp_path / "rwkv"), progress=said.append)
    small = SparseAutoencoder(TopKConfig(model.d_model, 96, 4), seed=5)
    with Engine(model, small, slots=2) as engine:
        assert list(engine.submit(request(model, "Hi", max_new_tokens=2)))
    assert any("continues each text on its own" in sentence for sentence in said)
