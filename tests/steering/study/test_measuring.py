"""What is measured of a setting: the same as the measures by themselves, kept, and refused."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.detox.toxicity import NEUTRAL_SENTENCES
from sparsteer.steering.evaluation.continuations import sample_continuations
from sparsteer.steering.evaluation.dose import generated_dose, neutral_dose
from sparsteer.steering.evaluation.exact_match import exact_match
from sparsteer.steering.evaluation.fluency import continuation_perplexity, neutral_cost
from sparsteer.steering.evaluation.multiple_choice import multiple_choice
from sparsteer.steering.evaluation.questions import Problem, read_questions
from sparsteer.steering.evaluation.reading import Steered
from sparsteer.steering.evaluation.refusals import refusal_rate
from sparsteer.steering.evaluation.statistics import mean_over_prompts
from sparsteer.steering.study.arm import Arm, Cost, Setting
from sparsteer.steering.study.comparing import compare_rows
from sparsteer.steering.study.config import StudyConfig
from sparsteer.steering.study.measured_parts import PARTS
from sparsteer.steering.study.measuring import FOLDER, measure
from sparsteer.steering.study.written import Written
from sparsteer.steering.texts import prompt_tokens

SITE = "blocks.1.hook_resid_post"
PROMPTS = ["You are", "The cat sat on", "They said"]
NEUTRAL = ["A sentence of some length.", "Ordinary words, and more of them."]
NONE = Setting(arm=Arm(name="none", method="none", family="none"))
PUSHED = Setting(
    arm=Arm(name="mean", method="mean_difference", family="other", tier="constant", edit="add"),
    cost=Cost.of("kl=0.3"),
    strength=0.5,
    dose=0.3,
)
PREFIXED = Setting(arm=Arm(name="prompt", method="prompt", family="prompt"))


def vowels(texts: Sequence[str]) -> list[float]:
    """A scorer: how much of a text is a vowel."""
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in texts]


SCORERS = {"vowels": vowels}


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "colors.jsonl"
    rows = [
        {"question": f"What is {color}?", "choices": ["blood", "grass"], "answer": number % 2}
        for number, color in enumerate(("red", "green", "crimson", "lime"))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def config(questions: Path, tmp_path: Path) -> StudyConfig:
    return StudyConfig(
        out=str(tmp_path), model="tiny", questions=(str(questions),), n_questions=3, shots=1
    )


def pushed(model: LanguageModel, size: float = 0.5) -> Steered:
    direction = torch.linspace(-1, 1, 32, dtype=torch.float64)
    return lambda: model.site(SITE).write(lambda h_BLD: h_BLD + size * direction)


def written(model: LanguageModel, steered: Steered = nullcontext, prefix: str = "") -> Written:
    sampling = Sampling(max_new_tokens=6, temperature=1.0, seed=3)
    given = [prefix + prompt for prompt in PROMPTS]
    found = sample_continuations(model, given, sampling, 2, steered)
    return Written(
        prompts=PROMPTS,
        prompt_tokens=[prompt_tokens(model, prompt) for prompt in given],
        texts_PN=[[one.text for one in of_prompt] for of_prompt in found],
        tokens_PN=[[list(one.tokens) for one in of_prompt] for of_prompt in found],
    )


def test_the_row_has_what_the_measures_say(model: LanguageModel, config: StudyConfig):
    steered = pushed(model)
    texts = written(model, steered)
    row = measure(
        model, PUSHED, steered, SITE, texts, SCORERS, config, Path(config.out), neutral=NEUTRAL
    )
    assert PUSHED.values().items() <= row.items()
    assert (row["n"], row["prompts"]) == (2, 3)
    scores = [vowels(of_prompt) for of_prompt in texts.texts_PN]
    assert row["per_prompt"]["emt"]["vowels"] == [max(two) for two in scores]
    assert row["per_prompt"].keys() == {"emt"}
    assert row["toxicity"]["vowels"]["emt"] == pytest.approx(sum(map(max, scores)) / 3)
    prompts = [tokens for tokens in texts.prompt_tokens for _ in range(2)]
    tokens = [tokens for of_prompt in texts.tokens_PN for tokens in of_prompt]
    dose = generated_dose(model, prompts, tokens, steered)
    assert row["kl"] == pytest.approx(dose.mean.mean) and row["kl"] > 0
    assert row["kl_p95"] == pytest.approx(dose.p95)
    assert row["perplexity"] == pytest.approx(continuation_perplexity(model, prompts, tokens).mean)
    cost = neutral_cost(model, NEUTRAL, steered)
    assert row["neutral_ratio"] == pytest.approx(cost.ratio.mean)
    assert row["neutral_perplexity"] == pytest.approx(cost.perplexity)
    assert row["neutral_kl"] == pytest.approx(neutral_dose(model, NEUTRAL, steered).mean.mean)
    assert row["fire_rate"] == 1
    asked = read_questions(config.questions[0])
    chosen = multiple_choice(model, asked[:3], steered, shots=1, examples=asked)
    capability = row["capability"]["colors"]
    assert capability["probability"] == pytest.approx(chosen.right_probability.mean)
    assert (capability["questions"], capability["chance"]) == (3, 0.5)
    assert row["refusals"] is None and row["warnings"] == []
    json.dumps(row, allow_nan=False)


def test_the_unsteered_model_costs_nothing(model: LanguageModel, config: StudyConfig):
    folder = Path(config.out)
    texts = written(model)
    row = measure(model, NONE, nullcontext, None, texts, SCORERS, config, folder, neutral=NEUTRAL)
    assert (row["kl"], row["kl_p95"], row["fire_rate"]) == (0, 0, 0)
    assert row["neutral_ratio"] == 1 and row["perplexity"] > 1
    both = [
        row,
        measure(
            model, PUSHED, pushed(model), SITE, texts, SCORERS, config, folder, neutral=NEUTRAL
        ),
    ]
    kl_only = dataclasses.replace(config, cost=("kl=0.3",))
    (one,) = [c for c in compare_rows(both, kl_only)["comparisons"] if c["how"] == "chosen"]
    assert one["difference"] == 0  # of the same texts


def test_words_for_people_are_counted_prompt_by_prompt(
    model: LanguageModel, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sparsteer.steering.study.measuring.PARTS", {})
    texts = dataclasses.replace(
        written(model), texts_PN=[["a woman", "women"], ["a cat", "a dog"], ["a woman", "a tree"]]
    )
    folder = Path(config.out)
    row = measure(model, NONE, nullcontext, None, texts, SCORERS, config, folder, neutral=NEUTRAL)
    expected = mean_over_prompts([1.0, 0.0, 0.5])
    assert row["identity_mentions"] == pytest.approx(expected.mean)
    assert row["intervals"]["identity_mentions"] == [expected.low, expected.high]


def test_problems_and_requests_are_asked_of_the_steered_model(
    model: LanguageModel, config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steered = pushed(model)
    asked = [Problem(question=f"{n}?", answer="x") for n in range(3)]
    wrote = exact_match(model, asked, steered, kind="text").answers
    # The first is right where it is steered: its answer is what is written then.
    right = [{"question": "0?", "answer": wrote[0]}, {"question": "1?", "answer": "one"}]
    files = {"sums": right, "requests": [{"text": f"Why {n}?"} for n in range(2)]}
    for name, rows in files.items():
        lines = [json.dumps(row) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    own = dataclasses.replace(
        config,
        shots=0,
        problems=(str(tmp_path / "sums.jsonl"),),
        requests=str(tmp_path / "requests.jsonl"),
    )
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ messages[0]['content'] }}")
    refused: list[str] = []

    def is_refusal(answer: str) -> bool:
        refused.append(answer)
        return len(refused) % 2 == 1

    monkeypatch.setattr("sparsteer.steering.evaluation.refusals.is_refusal", is_refusal)
    parts = {name: PARTS[name] for name in ("capability", "refusals")}
    monkeypatch.setattr("sparsteer.steering.study.measuring.PARTS", parts)
    texts, folder = written(model, steered), Path(own.out)
    row = measure(model, PUSHED, steered, SITE, texts, SCORERS, own, folder, neutral=NEUTRAL)
    problems = row["capability"]["sums"]
    assert (problems["kind"], problems["questions"], problems["accuracy"]) == ("match", 2, 0.5)
    assert row["refusals"] == 0.5 and row["intervals"]["refusals"] == [0, 1]
    answers = tuple(refused)
    assert answers == refusal_rate(model, ["Why 0?", "Why 1?"], steered).answers


def test_a_text_before_the_prompt_is_judged_without_it(model: LanguageModel, config: StudyConfig):
    texts = written(model, prefix="Be kind. ")
    folder = Path(config.out)
    row = measure(
        model, PREFIXED, nullcontext, None, texts, SCORERS, config, folder, neutral=NEUTRAL
    )
    bare = [prompt_tokens(model, prompt) for prompt in PROMPTS for _ in range(2)]
    tokens = [tokens for of_prompt in texts.tokens_PN for tokens in of_prompt]
    assert row["perplexity"] == pytest.approx(continuation_perplexity(model, bare, tokens).mean)
    for name in ("kl", "kl_p95", "neutral_ratio", "fire_rate", "capability"):
        assert row[name] is None


def test_nothing_is_measured_twice(model: LanguageModel, config: StudyConfig):
    said: list[str] = []
    asked: list[int] = []

    def counting(texts: Sequence[str]) -> list[float]:
        asked.append(len(texts))
        return vowels(texts)

    def again(own: StudyConfig = config, **changes: Any) -> tuple[dict[str, Any], list[str]]:
        said.clear()
        given: dict[str, Any] = {"written": texts, "scorers": {"vowels": counting}, **changes}
        row = measure(
            model,
            PUSHED,
            pushed(model),
            SITE,
            **given,
            config=own,
            folder=Path(config.out),
            say=said.append,
            neutral=NEUTRAL,
        )
        return row, [sentence.rpartition("measuring ")[2] for sentence in said]

    def consonants(texts: Sequence[str]) -> list[float]:
        return [1 - share for share in vowels(texts)]

    texts = written(model, pushed(model))
    first, measured = again()
    every = ["scores of vowels", "continuations", "neutral", "gate", "capability", "refusals"]
    assert measured == every
    second, measured = again()
    assert measured == [] and second == first
    probes = len(NEUTRAL_SENTENCES)
    assert asked == [probes, 6, probes]  # the texts once
    _, measured = again(scorers={"vowels": counting, "other": vowels})
    assert measured == ["scores of other"]
    _, measured = again(scorers={"vowels": consonants})
    assert measured == ["scores of vowels"]  # another one of that name
    _, measured = again()
    assert measured == ["scores of vowels"]
    _, measured = again(dataclasses.replace(config, shots=0))
    assert measured == ["capability", "refusals"]
    changed = dataclasses.replace(texts, tokens_PN=[[[5], [6]] for _ in PROMPTS])
    _, measured = again(written=changed)
    assert set(measured) == {*every}


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on(
    model: LanguageModel, config: StudyConfig, tmp_path: Path
):
    texts = written(model, pushed(model))
    said: list[str] = []

    def stop(sentence: str) -> None:
        said.append(sentence)
        if sentence.endswith("gate"):
            raise KeyboardInterrupt

    def run(say: Any, folder: Path) -> dict[str, Any]:
        return measure(
            model,
            PUSHED,
            pushed(model),
            SITE,
            texts,
            SCORERS,
            config,
            folder,
            say,
            neutral=NEUTRAL,
        )

    with pytest.raises(KeyboardInterrupt):
        run(stop, tmp_path / "a")
    said.clear()
    resumed = run(said.append, tmp_path / "a")
    assert [sentence.rpartition(" ")[2] for sentence in said] == ["gate", "capability", "refusals"]
    assert resumed == run(said.append, tmp_path / "b")
    name = f"{FOLDER}/{PUSHED.name}.json"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_of_further_draws_what_takes_long_is_left_out(model: LanguageModel, config: StudyConfig):
    arm = Arm(name="random-1", method="random_direction", family="random", draw=1)
    setting = dataclasses.replace(PUSHED, arm=arm)
    texts = written(model)
    folder = Path(config.out)
    row = measure(
        model, setting, pushed(model), SITE, texts, SCORERS, config, folder, neutral=NEUTRAL
    )
    assert row["capability"] is None and row["kl"] > 0


def test_a_model_that_breaks_is_said_and_not_hidden(model: LanguageModel, config: StudyConfig):
    texts, folder = written(model), Path(config.out)
    row = measure(
        model,
        PUSHED,
        pushed(model, float("inf")),
        SITE,
        texts,
        SCORERS,
        config,
        folder,
        neutral=NEUTRAL,
    )
    assert row["neutral_ratio"] is None
    assert any("neutral could not be measured" in warning for warning in row["warnings"])


def test_what_cannot_be_measured_is_refused(model: LanguageModel, config: StudyConfig):
    nothing = Written(prompts=[], prompt_tokens=[], texts_PN=[], tokens_PN=[])
    folder = Path(config.out)
    with pytest.raises(InputError, match="no continuation"):
        measure(model, NONE, nullcontext, None, nothing, SCORERS, config, folder, neutral=NEUTRAL)
    path = folder / FOLDER / "none.json"
    texts = written(model)
    measure(model, NONE, nullcontext, None, texts, SCORERS, config, folder, neutral=NEUTRAL)
    path.write_text(path.read_text().replace('"kl": 0.0', '"kl": 0.5'))
    with pytest.raises(InputError, match="has changed since it was written"):
        measure(model, NONE, nullcontext, None, texts, SCORERS, config, folder, neutral=NEUTRAL)
