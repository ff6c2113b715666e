"""Continuations of a study: the same lines whatever interrupts their writing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.sae.common.errors import InputError
from sparsteer.steering.config import Sampling
from sparsteer.steering.evaluation.continuations import sample_continuations
from sparsteer.steering.study.writing import write_continuations
from sparsteer.steering.study.written import Written
from sparsteer.steering.texts import prompt_tokens

PROMPTS = ["He said", "They saw a", "Why", "no"]
SAMPLING = Sampling(max_new_tokens=5, temperature=1.0, batch_size=3, seed=2)
N = 2


def write(model: LanguageModel, path: Path, **given: Any) -> Written:
    return write_continuations(model, PROMPTS, SAMPLING, N, path, **given)


def test_they_are_those_of_sample_continuations_and_are_read_again(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "none.jsonl"
    written = write(tiny_model, path)
    expected = sample_continuations(tiny_model, PROMPTS, SAMPLING, N)
    assert written.texts_PN == [[one.text for one in of_prompt] for of_prompt in expected]
    assert written.tokens_PN == [[list(one.tokens) for one in own] for own in expected]
    assert written.prompt_tokens == [prompt_tokens(tiny_model, prompt) for prompt in PROMPTS]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    order = [(row["prompt"], row["number"]) for row in rows]
    assert order == [(p, n) for batch in (range(3), range(3, 4)) for n in range(N) for p in batch]
    assert set(rows[0]) == {"prompt", "number", "text", "tokens", "finish"}
    assert write(tiny_model, path) == written


@pytest.mark.parametrize("cut", [0.0, 0.13, 0.5, 0.8, 0.999, 1.0])
def test_an_interrupted_file_becomes_the_same(
    tiny_model: LanguageModel, tmp_path: Path, cut: float
) -> None:
    whole = tmp_path / "whole.jsonl"
    write(tiny_model, whole)
    content = whole.read_bytes()
    part, path = tmp_path / "cut.part.jsonl", tmp_path / "cut.jsonl"
    part.write_bytes(content[: int(cut * len(content))])
    written: list[int] = []

    def progress(done: int, total: int) -> None:
        written.append(done)

    write(tiny_model, path, progress=progress)
    assert path.read_bytes() == content
    assert not part.exists()
    if cut == 1.0:
        assert written == []


def test_a_prefix_changes_what_is_read_and_not_what_the_prompt_is_called(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    plain = write(tiny_model, tmp_path / "plain.jsonl")
    prefixed = write(tiny_model, tmp_path / "prefixed.jsonl", prefix="Be kind. ")
    assert prefixed.prompt_tokens == plain.prompt_tokens
    assert prefixed.texts_PN != plain.texts_PN


def changed(lines: Sequence[str], how: str) -> list[str]:
    match how:
        case "broken":
            return [*lines[:2], "{", *lines[3:]]
        case "swapped":
            return [lines[1], lines[0], *lines[2:]]
        case "too many":
            return [*lines, lines[-1]]
        case _:
            return list(lines[:-1])


@pytest.mark.parametrize("how", ["broken", "swapped", "too many", "too few"])
def test_a_file_of_something_else_is_refused(
    tiny_model: LanguageModel, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "none.jsonl"
    write(tiny_model, path)
    path.write_text("\n".join(changed(path.read_text().splitlines(), how)) + "\n")
    with pytest.raises(InputError, match="is not what these settings write"):
        write(tiny_model, path)
