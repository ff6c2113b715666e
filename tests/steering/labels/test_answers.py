"""Which answers are labels, and which lists of numbers."""

import pytest

from sparsteer.steering.labels.answers import BadAnswer, label_of, numbers_of


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("words of rain and storms", "words of rain and storms"),
        ('  "Dates in April."\n', "Dates in April"),
        ("**Label:** the verb 'to be'\n\nExplanation: it fires on is.", "the verb 'to be'"),
        ("**'names of rivers.'**", "names of rivers"),
        ("This neuron fires on names of rivers", "names of rivers"),
        ("<think>The user wants me to\nfind it.</think>\nnames of rivers", "names of rivers"),
        ("Oklahoma and Kansas", "Oklahoma and Kansas"),
        ("thoughtful and kind words", "thoughtful and kind words"),
        ("I am, you are: forms of to be", "I am, you are: forms of to be"),
        ("first names", "first names"),
        ("雨と嵐の言葉", "雨と嵐の言葉"),
    ],
)
def test_labels(answer: str, label: str) -> None:
    assert label_of(answer) == label


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ('"..."', "empty"),
        ("thoughtThe user wants me to explain the neuron", "talk about the task"),
        ("thought", "talk about the task"),
        ("The user wants me to find what these share", "talk about the task"),
        ("Okay, so these are words about rain", "talk about the task"),
        ("Here is the label you asked for", "talk about the task"),
        ("Let me look at the examples.\nThey are about rain.", "talk about the task"),
        ("<think>rain or storms, perhaps", "thoughts without an answer"),
        ("I'm sorry, but I can't help with that.", "a refusal"),
        ("I cannot determine a label", "a refusal"),
        ("As an AI, it is rain", "talk about the task"),
        ("unclear", "no idea"),
        ("No clear pattern.", "no idea"),
        ("rain, " * 30, "too long"),
        ("words\nabout\nrain", "too long"),
        ("x" * 101, "too long"),
        ("the <<rain>> falls", "a copy of an example"),
        ("rain\u202e and snow", "unprintable characters"),
        ("rain\x1b[2J", "unprintable characters"),
    ],
)
def test_answers_that_are_no_labels(answer: str, reason: str) -> None:
    with pytest.raises(BadAnswer, match=reason):
        label_of(answer)


def test_an_answer_that_was_cut_off_is_no_label() -> None:
    assert label_of("words of rain") == "words of rain"
    with pytest.raises(BadAnswer, match="too long"):
        label_of("words of rain", cut_off=True)


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("[1, 3]", {1, 3}),
        ("[]", set[int]()),
        ("<think>[1,2,3]?</think> I would say [2]", {2}),
        ("The texts [1] and [2] look right: [ 1,\n2, 2 ]", {1, 2}),
    ],
)
def test_lists_of_numbers(answer: str, numbers: set[int]) -> None:
    assert numbers_of(answer, 5) == numbers


@pytest.mark.parametrize("answer", ["", "1, 2", "[one]", "[1", "[0]", "[6]", "[1,,2]", "{}"])
def test_answers_that_are_no_lists(answer: str) -> None:
    with pytest.raises(BadAnswer, match="numbers"):
        numbers_of(answer, 5)
