"""Select through files: the best rows as they are, and every wrong choice named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import InputError
from sparsteer.steering.selection import SelectConfig, select
from sparsteer.training.data.row_files.json_files import JsonLinesFile


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    rows = [b'{"s": 0.5, "s_tokens": 10, "n": 0}', b'{"s":null,"n": 1.0}', b'{"n": 2}']
    rows += [b'{"s": 9e-1, "n": 3, "s_tokens": 30}', b'{"s": NaN}', b'{"s": 0.5, "s_tokens": 20}']
    path = tmp_path / "scored.jsonl"
    path.write_bytes(b"\n".join(rows))
    return path


@pytest.mark.parametrize(
    "how, lines, asked",
    [
        ({"ratio": 0.2}, [3], 1),
        ({"ratio": 0.3}, [0, 3], 2),
        ({"ratio": 1.0}, [0, 3, 5], 6),
        ({"count": 1}, [3], 1),
        ({"count": 3}, [0, 3, 5], 3),
    ],
)
def test_select_keeps_rows_and_order(
    scored: Path, how: dict[str, Any], lines: list[int], asked: int
) -> None:
    out = scored.with_name("out.jsonl")
    summary = select(SelectConfig(file=str(scored), out=str(out), column="s", **how))
    before = scored.read_bytes().splitlines()
    assert out.read_bytes().splitlines() == [before[n] for n in lines]
    assert (summary["rows"], summary["scored"], summary["selected"]) == (6, 3, len(lines))
    assert summary["asked"] == asked
    assert summary["lowest_selected"] == (0.9 if len(lines) == 1 else 0.5)
    assert summary["highest_left"] == (None if len(lines) == 3 else 0.5)
    assert summary["mean_tokens"] == {
        "selected": {1: 30, 2: 20, 3: 20}[len(lines)],
        "scored": 20,
    }


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ratio": 0.0}, "ratio is 0.0, but must be above 0"),
        ({"ratio": 1.01}, "ratio is 1.01"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"ratio": -0.5}, "ratio is -0.5"),
        ({"count": 0}, "count is 0"),
        ({}, "give either --ratio or --count"),
        ({"count": 1, "ratio": 0.5}, "give either --ratio or --count"),
        ({"count": 4}, "count is 4, but only 3 rows have a score; lower it"),
        ({"count": 1, "column": "score"}, "no column 'score'; its columns are s, s_tokens, n"),
        ({"count": 1, "column": "text"}, "no column 'text'"),
        ({"count": 1, "out": "out.parquet"}, "another format"),
    ],
)
def test_wrong_choices_are_named(scored: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings: dict[str, Any] = {"column": "s", "out": str(scored.with_name("out.jsonl"))}
        settings |= change
        select(SelectConfig(file=str(scored), **settings))
    assert not scored.with_name("out.jsonl").exists()


def test_a_column_without_numbers_is_named(tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl", str(tmp_path / "out.jsonl")
    path.write_text('{"s": 1, "t": null}\n{"s": "high", "t": null}')
    with pytest.raises(InputError, match=r"'s' holds 'high' in row 2, which is no finite number"):
        select(SelectConfig(file=str(path), out=out, count=1, column="s"))
    with pytest.raises(InputError, match=r"no row of .* has a score in 't'"):
        select(SelectConfig(file=str(path), out=out, ratio=0.5, column="t"))


@pytest.mark.parametrize("score", ["Infinity", "-Infinity", "1e999", "1" + 399 * "0", "true"])
def test_a_score_that_is_not_finite_is_named(tmp_path: Path, score: str) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text(f'{{"s": 1}}\n{{"s": NaN}}\n{{"s": {score}}}')
    with pytest.raises(InputError, match=r"'s' holds '.{1,40}' in row 3, which is no finite numbe"):
        select(SelectConfig(file=str(path), out=str(out), count=1, column="s"))
    assert not out.exists()


@pytest.mark.parametrize("tokens", ["Infinity", "NaN", "1" + 399 * "0", "null", '"9"'])
def test_lengths_that_are_unknown_have_no_mean(tmp_path: Path, tokens: str) -> None:
    path, out = tmp_path / "rows.jsonl", str(tmp_path / "out.jsonl")
    path.write_text(f'{{"s": 1, "s_tokens": {tokens}}}\n{{"s": 2, "s_tokens": 5}}')
    summary = select(SelectConfig(file=str(path), out=out, count=1, column="s"))
    assert summary["mean_tokens"] is None


@pytest.mark.parametrize(
    "content",
    [b"mine", b'{"s": 9e-1, "n": 3, "s_tokens": 31}\n', b'{"s": 9e-1, "n": 3, "s_tokens": 30}\n{}'],
)
def test_other_content_is_refused_before_anything_is_written(
    scored: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    out = scored.with_name("out.jsonl")
    config = SelectConfig(file=str(scored), out=str(out), column="s", count=1)
    out.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(JsonLinesFile, "write", None)
        with pytest.raises(InputError, match=f"{out} exists with other content; give another"):
            select(config)
    assert out.read_bytes() == content
    select(replace(config, force=True))
    assert select(config)["selected"] == 1  # the same again is no other content
