"""The quiz on features: what is shown and asked, who recognizes what, how answers are scored."""

import dataclasses
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from sparsteer.app.quiz.writing import quiz_page, write_quiz
from sparsteer.sae import InputError
from sparsteer.steering.features import Example, Feature, FeatureIndex
from sparsteer.steering.recognition.config import QuizConfig, QuizScoreConfig
from sparsteer.steering.recognition.files import KEY, read_answers, read_quiz, write_answers
from sparsteer.steering.recognition.quiz import Quiz, make_quiz, question_of
from sparsteer.steering.recognition.scored import score_quiz
from sparsteer.steering.recognition.scoring import (
    chance_to_recognize,
    right_needed,
    score_answers,
)

from .chat_stand_in import ChatStandIn


def example(document: int, word: str, activation: float) -> Example:
    return Example(
        activation=activation,
        document=document,
        position=4,
        row=document,
        peak=1,
        tokens=(5, 6, 7),
        texts=(f"{document} the", f" {word}", " is"),
        activations=(0.0, activation, 0.0),
    )


def planted(**changes: Any) -> Feature:
    """A feature that fires on the sun, and nearly on the moon."""
    top = tuple(example(n, "sun", 9 - n / 10) for n in range(20))
    sampled = tuple(example(n, "sun", 4.0) for n in (*range(3), *range(30, 47)))
    near = tuple(example(n, "moon", 0.0) for n in range(50, 56))
    feature = Feature(
        feature=3,
        fired=100,
        density=0.01,
        mean_activation=4.0,
        median_activation=4.0,
        p99_activation=9.0,
        max_activation=9.0,
        histogram=(100,),
        histogram_edges=(0.0, 16.0),
        top=top,
        random=sampled,
        positive_logits=None,
        negative_logits=None,
        neighbors=(),
        near_misses=near,
    )
    return dataclasses.replace(feature, **changes)


def other(source: random.Random) -> Example:
    return example(source.randrange(1000, 9000), "star", 3.0)


def test_half_is_shown_and_the_other_half_is_asked_about() -> None:
    question = question_of(planted(), 10, draw_other=other, seed=0)
    assert question is not None and len(question.pairs) == 10
    shown = {text.tokens[0].split()[0] for text in question.shown}
    # Of 20 top and 17 random examples of other documents every other one.
    assert len(shown) == len(question.shown) == 10 + 9
    strengths = [text.strengths[text.marked] for text in question.shown]
    assert strengths == sorted(strengths, reverse=True) and strengths[0] == 1
    kinds: list[tuple[str, str]] = []
    for pair in question.pairs:
        right, wrong = pair.texts if pair.right == "A" else pair.texts[::-1]
        assert right.tokens[right.marked] == " sun" and not right.strengths
        assert wrong.tokens[wrong.marked] == {"near_miss": " moon", "other": " star"}[pair.other]
        assert right.tokens[0].split()[0] not in shown
        kinds.append((pair.example, pair.other))
    assert [kind for kind, _ in kinds].count("top") == 5
    assert [kind for _, kind in kinds].count("near_miss") == 6


def test_a_near_miss_on_whose_text_the_feature_fires_is_none() -> None:
    near = planted().near_misses
    firing = dataclasses.replace(near[0], activations=(0.0, 0.0, 2.0))
    shown_document = dataclasses.replace(near[1], document=4)
    feature = planted(near_misses=(firing, shown_document, *near[2:]))
    question = question_of(feature, 10, draw_other=other, seed=0)
    assert question is not None
    assert [pair.other for pair in question.pairs].count("near_miss") == 4


@pytest.mark.parametrize(
    "changes", [{"top": (), "random": planted().random[:8]}, {"top": (), "random": ()}]
)
def test_a_feature_of_few_documents_is_not_asked_about(changes: dict[str, Any]) -> None:
    assert question_of(planted(**changes), 10, draw_other=other, seed=0) is None


def test_without_other_texts_there_is_no_question() -> None:
    of_its_own = planted().top[0]
    assert question_of(planted(), 10, draw_other=lambda source: of_its_own, seed=0) is None


def key_and_answers(n_features: int, right: list[int]) -> tuple[list[dict[str, Any]], Any]:
    pair = {"right": "A", "example": "top", "other": "near_miss"}
    key = [
        {"question": n, "feature": 10 * n, "pairs": [pair] * 10} for n in range(1, n_features + 1)
    ]
    return key, {n: ["A"] * r + ["B"] * (10 - r) for n, r in enumerate(right, start=1)}


def test_eight_of_ten_are_recognized() -> None:
    key, answers = key_and_answers(4, [10, 8, 7])
    found = score_answers(key, answers)
    assert (found["asked"], found["answered"], found["recognized"]) == (4, 3, 2)
    assert found["low"] < 2 / 3 < found["high"] and found["accuracy"] == pytest.approx(25 / 30)
    assert [f["recognized"] for f in found["features"]] == [True, True, False]
    assert found["features"][0]["feature"] == 10
    assert found["by_other"] == {"near_miss": {"right": 25, "asked": 30, "fraction": 25 / 30}}
    none = score_answers(key, {2: [None] * 10})
    assert none["answered"] == 0 and none["fraction"] is None
    part = score_answers(key, {2: ["A"] * 7 + [None] * 2})
    assert part["features"] == [{"feature": 20, "right": 7, "recognized": False}]


def test_what_guessing_recognizes_is_the_binomial_tail() -> None:
    assert chance_to_recognize(10) == pytest.approx(56 / 1024)
    assert [right_needed(n) for n in (1, 5, 10, 11)] == [1, 4, 8, 9]
    source = random.Random(0)
    key, _ = key_and_answers(4000, [])
    answers = {n: source.choices("AB", k=10) for n in range(1, 4001)}
    found = score_answers(key, answers)
    assert found["low"] < found["chance"] < found["high"]
    assert abs(found["accuracy"] - 0.5) < 3 * found["accuracy_standard_error"]


def test_the_right_ones_stand_on_either_side() -> None:
    questions = [question_of(planted(feature=n), 10, draw_other=other, seed=1) for n in range(40)]
    sides = [pair.right for q in questions if q is not None for pair in q.pairs]
    assert 0.4 < sides.count("A") / len(sides) < 0.6


def test_the_page_holds_its_questions_and_no_answer() -> None:
    evil = dataclasses.replace(planted().top[0], texts=("</script><b>", "{{ nonce }}", "é"))
    question = question_of(planted(top=(evil, *planted().top[1:])), 10, draw_other=other, seed=0)
    assert question is not None
    page = quiz_page(Quiz((question,), 1, 0))
    (given,) = re.findall(r"^const given = (.*);$", page, re.MULTILINE)
    assert "</script><b>" not in page and "{{ nonce }}" in given
    assert page.count("{{") == given.count("{{")
    values = json.loads(given.replace("<\\/", "</"))
    assert values["questions"][0]["pairs"][0].keys() == {"A", "B"}
    assert "right" not in given and '"feature"' not in given
    assert "http" not in page.replace("http-equiv", "")


@pytest.fixture
def quiz_folder(run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "quiz"
    write_quiz(QuizConfig(run=str(run), out=str(folder), n=6, pairs=5))
    return folder


@pytest.mark.slow
def test_a_quiz_is_made_of_a_run_again_and_again_the_same(run: Path, tmp_path: Path) -> None:
    config = QuizConfig(run=str(run), out=str(tmp_path / "quiz"), n=6, pairs=5)
    first = write_quiz(config)
    assert first["questions"] == 6 and first["needed"] == 4
    names = {path.name for path in (tmp_path / "quiz").iterdir()}
    assert names == {"quiz.html", "quiz.json", "key.json"}
    content = [(tmp_path / "quiz" / name).read_bytes() for name in sorted(names)]
    assert write_quiz(config) == first
    assert content == [(tmp_path / "quiz" / name).read_bytes() for name in sorted(names)]
    assert write_quiz(dataclasses.replace(config, seed=1))["quiz"] != first["quiz"]
    (tmp_path / "quiz" / "answers.json").write_text("{}")
    with pytest.raises(InputError, match=r"answers\.json"):
        write_quiz(config)
    with pytest.raises(InputError, match="no feature has 300 examples"):
        make_quiz(FeatureIndex(run), 3, 300, seed=0)


@pytest.mark.slow
def test_a_server_that_knows_recognizes_all_and_goes_on(
    chat: ChatStandIn, quiz_folder: Path
) -> None:
    key = read_quiz(quiz_folder, KEY)["key"]
    quiz = read_quiz(quiz_folder)["questions"]
    asked: list[int] = []

    def know(text: str) -> str:
        first = re.findall(r"^- (.*)$", text, re.MULTILINE)
        (number,) = (
            q["question"] for q in quiz if len(q["shown"]) == len(first) and shown(q) == first
        )
        asked.append(number)
        right = key[number - 1]["pairs"]
        return json.dumps([2 * n + 1 + (p["right"] == "B") for n, p in enumerate(right)])

    def shown(question: dict[str, Any]) -> list[str]:
        lines: list[str] = []
        for text in question["shown"]:
            tokens = list(text["tokens"])
            tokens[text["marked"]] = f"<<{tokens[text['marked']]}>>"
            lines.append("".join(tokens).strip())
        return lines

    chat.labels = know
    config = QuizScoreConfig(quiz=str(quiz_folder), endpoint=chat.url)
    found = score_quiz(config)
    assert found["fraction"] == 1 and found["accuracy"] == 1 and found["by"] == "stand-in-1"
    assert sorted(asked) == [1, 2, 3, 4, 5, 6] and found["requests"] == 6
    again = score_quiz(config)
    assert again["requests"] == 0 and again["features"] == found["features"]
    by_file = score_quiz(QuizScoreConfig(quiz=str(quiz_folder), answers=found["answers"]))
    assert by_file["features"] == found["features"] and by_file["by"] == "stand-in-1"


@pytest.mark.slow
def test_a_server_that_names_both_or_talks_recognizes_nothing(
    chat: ChatStandIn, quiz_folder: Path
) -> None:
    chat.labels = lambda text: "I cannot say" if "Pair 5" not in text else "[1, 2, 3]"
    found = score_quiz(QuizScoreConfig(quiz=str(quiz_folder), endpoint=chat.url))
    assert found["recognized"] == 0 and found["answered"] == 6 and found["accuracy"] <= 0.2
    (quiz_folder / "answers-stand-in-1.json").unlink()
    chat.labels = lambda text: "I cannot say"
    found = score_quiz(QuizScoreConfig(quiz=str(quiz_folder), endpoint=chat.url))
    assert found["answered"] == 0 and len(found["rejected"]) == 6 and found["requests"] == 12


def test_answers_of_another_quiz_or_to_no_question_are_refused(tmp_path: Path) -> None:
    key, _ = key_and_answers(2, [])
    values = {"quiz": "abc", "key": key}
    path = tmp_path / "answers.json"
    write_answers(path, "abc", {2: ["A", None]}, "me")
    assert read_answers(path, values) == {2: ["A", None]}
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"quiz": "abd", "answers": {}}, "another quiz"),
        ({"quiz": "abc"}, "has no"),
        ({"quiz": "abc", "answers": {"3": ["A"]}}, "answers '3'"),
        ({"quiz": "abc", "answers": {"2": ["A"] * 11}}, "at most 10"),
        ({"quiz": "abc", "answers": {"2": ["C"]}}, "question 2 with 'C'"),
    )
    for answers, message in cases:
        path.write_text(json.dumps(answers))
        with pytest.raises(InputError, match=message):
            read_answers(path, values)
    with pytest.raises(InputError, match="holds no quiz"):
        read_quiz(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [{}, {"answers": "a", "endpoint": "b"}, {"answers": "a", "model": "m"}],
)
def test_whose_answers_must_be_clear(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="endpoint"):
        QuizScoreConfig(quiz="q", **settings)
