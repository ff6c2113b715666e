"""Multiple choice and exact match: by definition against plain passes, layouts, and what is
refused."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.errors import TooStrong
from sparsteer.steering.evaluation import exact_match as exact_match_module
from sparsteer.steering.evaluation.exact_match import answer_in, exact_match
from sparsteer.steering.evaluation.multiple_choice import multiple_choice
from sparsteer.steering.evaluation.questions import (
    Problem,
    Question,
    fetched_questions,
    read_problems,
    read_questions,
)
from sparsteer.steering.generation import Continuation, generate

QUESTIONS = [
    Question(question="What is red?", options=("blood", "grass", "the sky"), right=0, subject="a"),
    Question(question="Two and two?", options=("five", "4"), right=1, subject="b"),
    Question(question="Where?", options=("here", "there", "no", "x"), right=2, subject="a"),
]
PROBLEMS = [Problem(question="One and one?", answer="It is 1+1. #### 2")]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


def likelihood(model: LanguageModel, prompt: str, option: str) -> float:
    assert model.bos_id is not None
    before, added = model.tokenize(prompt), model.tokenize(option)
    tokens = [model.bos_id, *before, *added]
    log_LV = model.logits(torch.tensor([tokens]))[0].log_softmax(-1)
    places = range(len(before), len(before) + len(added))
    return sum(float(log_LV[place, tokens[place + 1]]) for place in places)


@pytest.mark.slow_except("16")
@pytest.mark.parametrize("batch_size", [1, 16])
def test_options_are_scored_by_their_own_tokens(model: LanguageModel, batch_size: int):
    found = multiple_choice(model, QUESTIONS, style="texts", batch_size=batch_size)
    for number, question in enumerate(QUESTIONS):
        prompt = f"Question: {question.question}\nAnswer:"
        scores = np.array([likelihood(model, prompt, f" {text}") for text in question.options])
        lengths = np.array([len(text) for text in question.options])
        assert found.correct_Q[number] == (scores.argmax() == question.right)
        assert found.correct_normalized_Q[number] == ((scores / lengths).argmax() == question.right)
        shares = np.exp(scores - scores.max())
        assert found.right_probability_Q[number] == pytest.approx(
            shares[question.right] / shares.sum()
        )
    assert found.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 4) / 3)


def test_letters_stand_behind_a_list_of_all_options(model: LanguageModel):
    found = multiple_choice(model, QUESTIONS, shots=1)
    example = "Question: What is red?\nA. blood\nB. grass\nC. the sky\nAnswer: A\n\n"
    prompt = f"{example}Question: Where?\nA. here\nB. there\nC. no\nD. x\nAnswer:"
    scores = np.array([likelihood(model, prompt, f" {letter}") for letter in "ABCD"])
    shares = np.exp(scores - scores.max())
    assert found.right_probability_Q[2] == pytest.approx(shares[2] / shares.sum())


def test_steering_reaches_the_answers_and_nothing_stays(model: LanguageModel):
    site = model.site("blocks.1.hook_resid_post")
    direction = torch.linspace(-3, 3, 32, dtype=torch.float64)
    base = multiple_choice(model, QUESTIONS)
    steered = multiple_choice(model, QUESTIONS, lambda: site.write(lambda h: h + direction))
    again = multiple_choice(model, QUESTIONS, nullcontext)
    assert not np.allclose(base.right_probability_Q, steered.right_probability_Q, atol=1e-3)
    assert (base.right_probability_Q == again.right_probability_Q).all()
    with pytest.raises(TooStrong):
        multiple_choice(model, QUESTIONS, lambda: site.write(lambda h: h * float("nan")))


def test_the_order_of_questions_changes_nothing(model: LanguageModel):
    one = multiple_choice(model, QUESTIONS, shots=0)
    two = multiple_choice(model, QUESTIONS[::-1], shots=0)
    assert np.allclose(one.right_probability_Q, two.right_probability_Q[::-1], atol=1e-12)


def test_a_model_that_guesses_is_at_chance(model: LanguageModel):
    """Options that are the same text are equally likely, wherever the right one stands."""
    same = [Question(question=f"{n}?", options=("x", "x", "x"), right=n % 3) for n in range(9)]
    found = multiple_choice(model, same, style="texts")
    assert found.right_probability_Q == pytest.approx(np.full(9, 1 / 3))
    assert found.accuracy.mean == pytest.approx(1 / 3)


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_questions_of_the_usual_layouts(tmp_path: Path):
    options = ["a", "b", "c"]
    rows = [
        {"question": "q", "choices": options, "answer": 1, "subject": "s"},
        {"question": "q", "choices": options, "answer": "B"},
        {"question": "q", "choices": options, "answer": "b"},
        {"question": "q", "choices": {"text": options, "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"ctx": "q", "endings": options, "label": "1"},
    ]
    found = read_questions(write_rows(tmp_path / "rows.jsonl", rows))
    assert all((each.right, each.options) == (1, ("a", "b", "c")) for each in found)
    assert [each.subject for each in found] == ["s", "", "", "", ""]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "none of its 2 choices"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "at least two"),
        ({"text": "q"}, "no question and choices"),
    ],
)
def test_questions_of_other_layouts_are_refused(tmp_path: Path, row: object, words: str):
    with pytest.raises(InputError, match=words):
        read_questions(write_rows(tmp_path / "rows.jsonl", [row]))


def test_fetched_questions_are_read_off_their_worked_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from sparsteer.steering.evaluation import questions

    rows = [
        {
            "source": "mmlu-cot",
            "subject": "logic",
            "instruction": "Which one?\nReally?\n(A) this (B) that one (C) 3.5",
            "output": "Let's think step by step. The answer is (B).",
        },
        {
            "source": "mmlu-cot",
            "subject": "logic",
            "instruction": "f(A) is (B) what\nno options",
            "output": "The answer is (B).",
        },
        {"source": "human-eval", "subject": "python", "instruction": "x", "output": "y"},
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)

    def fetched(name: str) -> Path:
        assert name == "instructions"
        return file

    monkeypatch.setattr(questions, "fetch", fetched)
    (found,) = fetched_questions()
    assert found == Question(
        question="Which one?\nReally?",
        options=("this", "that one", "3.5"),
        right=1,
        subject="logic",
    )


@pytest.mark.parametrize(
    ("text", "number", "plain"),
    [
        ("It costs $1,200.00 in all.", "1200", "it costs 1 200 00 in all"),
        ("so 3 + 4 = 7\n#### 7", "7", "7"),
        ("-0.50", "-0.5", "0 50"),
        ("The Cat, a dog!", "", "cat dog"),
        ("", "", ""),
    ],
)
def test_answers_in_one_spelling(text: str, number: str, plain: str):
    assert answer_in(text, "number") == number
    assert answer_in(text, "text") == plain


def test_answers_are_written_behind_the_examples(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    problems = read_problems(
        write_rows(
            tmp_path / "p.jsonl", [{"input": "Say", "target": "3"}, {"input": "x", "target": "4"}]
        )
    )
    asked: list[str] = []

    def listen(model: LanguageModel, prompts: list[str], sampling: Sampling) -> object:
        asked.extend(prompts)
        return generate(model, prompts, sampling)

    monkeypatch.setattr(exact_match_module, "generate", listen)
    found = exact_match(model, problems, examples=PROBLEMS, max_new_tokens=5)
    shown = "Question: One and one?\nAnswer: It is 1+1. #### 2\n\n"
    assert asked == [f"{shown}Question: Say\nAnswer:", f"{shown}Question: x\nAnswer:"]
    sampling = Sampling(max_new_tokens=5, stop=("\n\n", "\nQuestion:"))
    assert found.answers == tuple(text.text for text in generate(model, asked, sampling))


def test_written_answers_are_compared_with_the_known_ones(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    def write(model: LanguageModel, prompts: list[str], sampling: Sampling) -> list[Continuation]:
        return [Continuation(text=each, tokens=(), stopped="eos") for each in (" 1+1=2", "three")]

    monkeypatch.setattr(exact_match_module, "generate", write)
    found = exact_match(model, [*PROBLEMS, Problem(question="Two and one?", answer="#### 3")])
    assert found.correct_Q.tolist() == [True, False]
    assert found.accuracy.mean == 0.5
    words = [Problem(question="a?", answer="1+1 = 2."), Problem(question="b?", answer="Three!")]
    assert exact_match(model, words, kind="text").accuracy.mean == 1


def test_problems_that_give_themselves_away_are_refused(model: LanguageModel):
    with pytest.raises(InputError, match="one of the examples"):
        exact_match(model, PROBLEMS, examples=PROBLEMS)
    with pytest.raises(InputError, match="has no number"):
        exact_match(model, [Problem(question="x", answer="none")])
    with pytest.raises(InputError, match="shots is 3"):
        multiple_choice(model, QUESTIONS, shots=3)
