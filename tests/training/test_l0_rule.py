"""Rules of `--l0`: what they say, and what they refuse."""

from typing import Any

import pytest

from sparsteer.sae import InputError
from sparsteer.training import TrainConfig, TrainerConfig
from sparsteer.training.l0_rule import L0Rule, parse_l0, require_l0_for, with_number


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("64", L0Rule(number=64)),
        ("ppl:1%", L0Rule(percent=1.0)),
        ("ppl:0.5", L0Rule(percent=0.5)),
        ("ppl:.5%", L0Rule(percent=0.5)),
        ("cosine", L0Rule(cosine=True)),
    ],
)
def test_rules_are_read_and_written(words: str, rule: L0Rule) -> None:
    assert parse_l0(words) == rule
    assert parse_l0(str(rule)) == rule
    assert rule.measures == (rule.number is None)


@pytest.mark.parametrize(
    "words",
    ["", "0", "-3", "1.5", "ppl", "ppl:", "ppl:0%", "ppl:1001%", "ppl:x", "Cosine", "ppl:1e3"],
)
def test_what_is_no_rule_is_refused(words: str) -> None:
    with pytest.raises(InputError, match="give a number of latents such as 64") as caught:
        parse_l0(words)
    assert caught.value.field == "l0" and repr(words) in str(caught.value)


def config(**changes: Any) -> TrainConfig:
    given: dict[str, Any] = {"cache": "c", "out": "o", **changes}
    return TrainConfig(**given)


@pytest.mark.parametrize(
    ("changes", "words", "why"),
    [
        ({"k": 4}, "64", "l0 is 64, and k is 4"),
        (
            {"activation": "jumprelu", "trainer": TrainerConfig(target_l0=9)},
            "64",
            "l0 is 64, and target_l0 is 9",
        ),
        ({"cache": None}, "ppl:1%", "held-out part of a cache"),
        ({"finetune": "s"}, "cosine", "leave finetune out"),
        ({"site": "a", "target_site": "b"}, "cosine", "leave target_site out"),
    ],
)
def test_what_does_not_go_with_it(changes: dict[str, Any], words: str, why: str) -> None:
    if changes.get("cache", "c") is None:
        from sparsteer.training.data.stream.config import StreamConfig

        changes = {**changes, "stream": StreamConfig(model="m", dataset="d")}
    with pytest.raises(InputError, match=why):
        require_l0_for(config(**changes), parse_l0(words))


def test_several_processes_are_given_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    require_l0_for(config(), parse_l0("64"))
    with pytest.raises(InputError, match="found in one process"):
        require_l0_for(config(), parse_l0("cosine"))


@pytest.mark.parametrize(
    ("activation", "k", "target"),
    [("topk", 9, None), ("batch_topk", 9, None), ("jumprelu", None, 9), ("top_afa", None, 9)],
)
def test_the_number_is_k_or_a_target(activation: str, k: int | None, target: int | None) -> None:
    found = with_number(config(activation=activation), 9)
    assert (found.k, found.trainer.target_l0) == (k, target)
