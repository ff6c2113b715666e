"""What a language model answers, taken as a label or as a list of numbers, or refused."""

import json
import re

LONGEST_LABEL = 100
"""Characters of the longest answer that is taken for a label."""
MOST_WORDS = 15

THOUGHTS = re.compile(r"^\s*<(think|thinking|thought)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHTS = re.compile(r"^\s*<(think|thinking|thought)>", re.IGNORECASE)
_HEADING = re.compile(
    r"^[*_#\s]*(label|answer|explanation|description)[*_]*\s*:[*_]*\s*", re.IGNORECASE
)
_LEAD_IN = re.compile(
    r"^(this|the) (neuron|feature|latent) (mostly |mainly |strongly )?"
    r"(fires|activates|responds|is active|is activated)( most| mostly| strongly)?"
    r"( on| to| for| by| when| in)? ",
    re.IGNORECASE,
)
_META = re.compile(
    r"^(okay|ok|sure|certainly|alright|hmm|wait|well|first|thought|analysis)\s*([,.!:]|$)"
    r"|^(here (is|are)|here['\u2019]s|i(['\u2019]ll| will| need to| have to| should| think)|"
    r"i(['\u2019]m| am) (going|asked|to)|let me|let['\u2019]s (see|look|think|analy)|we need|"
    r"we have|we are|based on (the|these)|looking at|given the|analy[sz]ing|"
    r"(this|the|these) (neuron|feature|latent|examples?|task|prompt|texts?|label)|this is)\b"
    r"|\b(the user (wants|asked|is asking|needs)|wants me to|asked me to|as an ai|"
    r"as a language model)\b",
    re.IGNORECASE,
)
_GLUED_THOUGHT = re.compile(r"^thought(?=[A-Z])")
"""What chat templates of some models leave of a heading before the thoughts."""
_REFUSAL = re.compile(
    r"\b(i'?m sorry|i am sorry|sorry,|i can(no|'|\u2019)t|i can not|i'?m unable|i am unable|"
    r"unable to|i won'?t|cannot (help|assist|provide|label|determine)|can't (help|assist))",
    re.IGNORECASE,
)
_NO_IDEA = re.compile(
    r"^(unclear|unknown|unsure|none|n/?a|null|nothing|no (clear |common |obvious )?"
    r"(pattern|label|idea|theme)|not (clear|sure)|various( topics| tokens)?|miscellaneous|"
    r"random( words| tokens)?|mixed)$",
    re.IGNORECASE,
)
_PAIRS = ('""', "''", "``", "**", "__", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb")
"""Marks that stand around a whole answer."""


class BadAnswer(ValueError):
    """An answer that is no label or no judgment; the message is the reason, in a few words."""


def label_of(answer: str, *, cut_off: bool = False) -> str:
    """The label in an answer: a few words on one line.

    Args:
        answer: what the model wrote.
        cut_off: whether it was ended by the limit of its length.

    Raises:
        BadAnswer: it is empty, too long, a refusal, about the task instead of the feature, or says
            that there is no idea.
    """
    text = _without_thoughts(answer)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise BadAnswer("empty")
    headed = next((line for line in lines if _HEADING.match(line)), None)
    if headed is None and len(lines) > 1:
        # The first line of several may be no label: it is judged by what it says.
        _refuse_talk(lines[0])
        raise BadAnswer("too long")
    label = _bare(_LEAD_IN.sub("", _bare(_HEADING.sub("", headed or lines[0]))))
    _refuse_talk(label)
    if cut_off or len(label) > LONGEST_LABEL or len(label.split()) > MOST_WORDS:
        raise BadAnswer("too long")
    if not label.isprintable():
        raise BadAnswer("unprintable characters")
    if "<<" in label or ">>" in label:
        raise BadAnswer("a copy of an example")
    if not any(character.isalnum() for character in label):
        raise BadAnswer("empty")
    if _NO_IDEA.match(label):
        raise BadAnswer("no idea")
    return label


def numbers_of(answer: str, most: int) -> set[int]:
    """The numbers in the JSON list at the end of an answer, each from 1 to `most`.

    Raises:
        BadAnswer: there is no such list.
    """
    lists = re.findall(r"\[[\d\s,]*\]", _without_thoughts(answer))
    if not lists:
        raise BadAnswer("no list of numbers")
    try:
        numbers: list[int] = json.loads(lists[-1])
    except ValueError:
        raise BadAnswer("no list of numbers") from None
    if any(not 1 <= number <= most for number in numbers):
        raise BadAnswer("numbers of no text")
    return set(numbers)


def _bare(text: str) -> str:
    """The text without marks around all of it, without a full stop at its end, evenly spaced."""
    text = " ".join(text.split()).removesuffix(".")
    while len(text) > 1 and text[0] + text[-1] in _PAIRS:
        text = text[1:-1].strip().removesuffix(".")
    return text


def _without_thoughts(answer: str) -> str:
    """The answer behind thoughts that stand between tags.

    Raises BadAnswer if they do not end.
    """
    text = THOUGHTS.sub("", answer)
    if _OPEN_THOUGHTS.match(text):
        raise BadAnswer("thoughts without an answer")
    return text


def _refuse_talk(text: str) -> None:
    """Raise BadAnswer for a refusal, or for words about the task."""
    if _REFUSAL.search(text):
        raise BadAnswer("a refusal")
    if _META.search(text) or _GLUED_THOUGHT.match(text):
        raise BadAnswer("talk about the task")
