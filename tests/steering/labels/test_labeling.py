"""Labeling a run by a stand-in server: what is asked, kept, scored, resumed and left alone."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import InputError
from sparsteer.sae.common.locks import hold
from sparsteer.steering.features import FeatureIndex, Pick, Picks
from sparsteer.steering.features.listing import ranked
from sparsteer.steering.labels import LabelConfig, label_features, machine_labels
from sparsteer.steering.labels.chat_client import EndpointError
from sparsteer.steering.labels.store import FILE

from .chat_stand_in import ChatStandIn, Fault


def config_of(chat: ChatStandIn, run: Path, **changes: Any) -> LabelConfig:
    settings: dict[str, Any] = {"top": 5, **changes}
    return LabelConfig(run=str(run), endpoint=chat.url, **settings)


def interesting(run: Path) -> list[int]:
    return ranked(FeatureIndex(run), "interest")


def test_the_most_interesting_are_labeled_and_scored(chat: ChatStandIn, run: Path) -> None:
    shown: list[str] = []

    def label(question: str) -> str:
        shown.extend(re.findall(r"^- (.*)$", question, re.MULTILINE))
        return "runs of letters"

    def judge(label: str, texts: list[str]) -> str:
        assert label == "runs of letters" and len(texts) == 16
        return "[1, 2, 3]"

    chat.labels, chat.judges = label, judge
    said: list[str] = []
    values = label_features(config_of(chat, run), say=said.append)
    numbers = interesting(run)[:5]
    assert [each["feature"] for each in values["labels"]] == numbers
    assert values["requests"] == 10 and values["tokens_in"] == 1000 and values["tokens_out"] == 70
    assert values["estimate"]["requests"] == 10 and "10 requests" in said[0]
    assert len(shown) == 60 and all(text.count("<<") == text.count(">>") == 1 for text in shown)
    found = machine_labels(run)
    assert set(found) == set(numbers)
    for number, label_ in found.items():
        assert label_.label == "runs of letters" and label_.model == "stand-in-1"
        assert label_.endpoint == chat.url and label_.detection is not None
        assert label_.detection.positives == 8
        assert label_.to_dict() in values["labels"], number
        said_to_fit = label_.detection.found + (
            label_.detection.near_misses
            + label_.detection.others
            - label_.detection.near_misses_refused
            - label_.detection.others_refused
        )
        assert said_to_fit == 3


def test_a_judge_that_knows_scores_1_and_one_that_says_all_scores_half(
    chat: ChatStandIn, run: Path
) -> None:
    index = FeatureIndex(run)
    (number,) = interesting(run)[:1]
    feature = index.feature(number)
    firing = ["".join(e.texts) for e in (*feature.top, *feature.random)]
    chat.judges = lambda label, texts: json.dumps(
        [n for n, text in enumerate(texts, start=1) if any(text in whole for whole in firing)]
    )
    label_features(config_of(chat, run, feature=(number,)))
    detection = machine_labels(run)[number].detection
    assert detection is not None and detection.found == detection.positives
    knows = detection.balanced_accuracy
    chat.judges = lambda label, texts: json.dumps([*range(1, len(texts) + 1)])
    label_features(config_of(chat, run, feature=(number,), again=True))
    detection = machine_labels(run)[number].detection
    assert detection is not None and detection.balanced_accuracy == 0.5
    assert detection.interval[0] < 0.5 < detection.interval[1] and knows == 1
    assert "no better than a guess" in machine_labels(run)[number].shown


def test_no_judged_text_was_shown(chat: ChatStandIn, run: Path) -> None:
    asked: dict[str, list[str]] = {}
    chat.labels = lambda question: asked.setdefault("shown", []).append(question) or "letters"
    chat.judges = lambda label, texts: asked.setdefault("judged", []).extend(texts) or "[]"
    for number in interesting(run)[:2]:
        asked.clear()
        label_features(config_of(chat, run, feature=(number,)))
        (question,) = asked["shown"]
        plain = question.replace("<<", "").replace(">>", "")
        assert asked["judged"] and not any(text in plain for text in asked["judged"])


def test_a_dry_run_asks_nothing(chat: ChatStandIn, run: Path) -> None:
    values = label_features(config_of(chat, run, dry_run=True))
    assert not chat.requests and not chat.paths and not (run / FILE).exists()
    assert values["estimate"]["features"] == 5 and values["estimate"]["requests"] == 10
    assert values["prompt"][0]["role"] == "system" and "<<" in values["prompt"][1]["content"]
    label_features(config_of(chat, run))
    sent = sum(len(m["content"]) for body in chat.requests for m in body["messages"])
    assert sent / 5 < values["estimate"]["tokens_in"] < sent / 2
    assert chat.requests[0]["messages"] == values["prompt"]


def test_bad_answers_are_asked_again_once_then_rejected(chat: ChatStandIn, run: Path) -> None:
    answers = iter(
        ["thoughtThe user wants me to", "names of rivers", "", "I'm sorry, I cannot help"]
    )
    chat.labels = lambda question: next(answers)
    first, second = interesting(run)[:2]
    values = label_features(config_of(chat, run, feature=(first, second), judged=0))
    assert [each["label"] for each in values["labels"]] == ["names of rivers"]
    assert values["rejected"] == [{"feature": second, "reason": "a refusal"}]
    assert values["answers_rejected"] == {"talk about the task": 1, "empty": 1, "a refusal": 1}
    assert values["requests"] == 4 and values["labels"][0]["detection"] is None
    repeated = chat.requests[1]["messages"]
    assert repeated[:2] == chat.requests[0]["messages"] and "Answer again" in repeated[3]["content"]
    assert set(machine_labels(run)) == {first}
    values = label_features(config_of(chat, run, feature=(first, second)))
    assert values["left_alone"]["labeled_before"] == [first, second] and len(chat.requests) == 4
    chat.labels = lambda question: "names of seas"
    label_features(config_of(chat, run, feature=(first, second), again=True))
    assert {label.label for label in machine_labels(run).values()} == {"names of seas"}


def test_a_judgment_that_cannot_be_used_leaves_the_label_unscored(
    chat: ChatStandIn, run: Path
) -> None:
    chat.judges = lambda label, texts: "all of them, I think"
    values = label_features(config_of(chat, run, top=1))
    assert values["labels"][0]["detection"] is None
    assert values["answers_rejected"] == {"no list of numbers": 2}
    (label,) = machine_labels(run).values()
    assert "not scored" in label.shown


def test_a_persons_label_is_never_touched(chat: ChatStandIn, run: Path) -> None:
    first, second, third = interesting(run)[:3]
    sae = FeatureIndex(run).manifest["sae"]
    taken_over = Pick(feature=third, label="a machine's", label_source="machine")
    Picks(sae, (Pick(feature=first, label="mine"), taken_over)).save(run)
    before = (run / "picks.json").read_bytes()
    values = label_features(config_of(chat, run, top=2))
    assert [each["feature"] for each in values["labels"]] == [third, second], "picks go first"
    assert values["left_alone"]["labeled_by_a_person"] == [first]
    values = label_features(config_of(chat, run, feature=(first,), again=True))
    assert not values["labels"] and first not in machine_labels(run)
    assert (run / "picks.json").read_bytes() == before


def test_a_server_that_fails_leaves_what_is_done_and_it_goes_on(
    chat: ChatStandIn, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsteer.steering.labels.chat_client._FIRST_WAIT", 0.0)
    chat.faults = dict.fromkeys(range(5, 100), Fault(500))
    with pytest.raises(EndpointError, match="what is labeled is kept"):
        label_features(config_of(chat, run))
    assert len(machine_labels(run)) == 2
    chat.faults, before = {}, len(chat.requests)
    values = label_features(config_of(chat, run))
    assert len(values["labels"]) == 3 and len(chat.requests) == before + 6
    assert list(machine_labels(run)) == interesting(run)[:5]


@pytest.mark.slow
def test_a_kill_loses_at_most_the_feature_in_hand(chat: ChatStandIn, run: Path) -> None:
    words = ("features", "label", run, "--endpoint", chat.url, "--top", "20", "--judged", "0")
    process: subprocess.Popen[bytes]

    def label(question: str) -> str:
        if len(chat.requests) == 8:
            process.kill()
        return f"label {len(chat.requests)}"

    chat.labels = label
    with chat.lock:  # so that the process is known when it asks
        process = subprocess.Popen([sys.executable, "-m", "sparsteer", *map(str, words)])
    assert process.wait(120) == -9
    kept = machine_labels(run)
    assert len(kept) == 7
    with (run / FILE).open("ab") as file:
        file.write(b'{"feature": 1, "la')
    assert machine_labels(run) == kept
    values = label_features(config_of(chat, run, top=20, judged=0))
    assert {label.feature for label in kept.values()} <= set(machine_labels(run))
    assert len(values["labels"]) == len(machine_labels(run)) - 7
    for line in (run / FILE).read_text().splitlines():
        json.loads(line)


def test_one_process_labels_at_a_time(chat: ChatStandIn, run: Path) -> None:
    with hold(run / FILE), pytest.raises(InputError, match="another process is writing"):
        label_features(config_of(chat, run))
    assert not chat.requests


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"feature": (999,)}, "there is no feature 999"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, "there is no such variable"),
        ({"endpoint": "nowhere"}, "endpoint is 'nowhere'"),
    ],
)
def test_wrong_settings(
    chat: ChatStandIn, run: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        settings: dict[str, Any] = {"run": str(run), "endpoint": chat.url, "top": 1, **changes}
        label_features(LabelConfig(**settings))
    assert not (run / FILE).exists()
