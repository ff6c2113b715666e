"""From members of packages to JSONL rows."""

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.fetching import convert

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=30)


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_prompts_keep_their_attribute_and_order(tmp_path: Path) -> None:
    # A line separator of Unicode is content, not the end of a line.
    for attribute, prompts in {"threat": "a\nb\u2028c", "severe_toxicity": "d"}.items():
        (tmp_path / attribute).write_text(prompts, encoding="utf-8")
    members = {f"x/rtp_{name}.txt": tmp_path / name for name in ("threat", "severe_toxicity")}
    convert.convert_prompts(members, tmp_path / "out.jsonl")
    assert rows_of(tmp_path / "out.jsonl") == [
        {"prompt": "a", "attribute": "threat"},
        {"prompt": "b\u2028c", "attribute": "threat"},
        {"prompt": "d", "attribute": "severe_toxicity"},
    ]


@given(rows=st.lists(st.fixed_dictionaries({"id": TEXTS, "text": TEXTS}), min_size=1, max_size=5))
def test_corpora_keep_every_row_and_column(
    rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, ["id", "text"])
    writer.writeheader()
    writer.writerows(rows)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("rows.csv", table.getvalue().encode())
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "member").write_bytes(archive.getvalue())
    convert.convert_corpus({"rows.zip": folder / "member"}, folder / "out.jsonl")
    assert rows_of(folder / "out.jsonl") == rows


def test_instructions_come_from_both_sources(tmp_path: Path) -> None:
    prompts = {
        "anatomy": "About anatomy.\n\nQ: Which?\n(A) x (B) y\nA: Step. The answer is (B).\n\n"
        "Q: Why?\nA: Because\nof it.\n\n",
        "law": "About law.\n\nQ: Who?\nA: (A).",
    }
    task = {
        "task_id": "HumanEval/0",
        "prompt": "def f():\n",
        "canonical_solution": "    return 1\n",
    }
    contents = {
        "a/_cot_prompts.json": json.dumps(prompts).encode(),
        "b/_generate_configs.py": b'import os\nSUBJECTS = {"anatomy": "stem", "law": "other"}\n',
        "c/HumanEval.jsonl.gz": gzip.compress(json.dumps({**task, "test": "x"}).encode() + b"\n"),
    }
    for number, content in enumerate(contents.values()):
        (tmp_path / str(number)).write_bytes(content)
    members = {name: tmp_path / str(number) for number, name in enumerate(contents)}
    convert.convert_instructions(members, tmp_path / "out.jsonl")
    rows = rows_of(tmp_path / "out.jsonl")
    columns = ("id", "source", "group", "subject", "instruction", "output")
    assert all(tuple(row) == columns for row in rows)
    mmlu = "mmlu-cot"
    assert [tuple(row.values()) for row in rows] == [
        (
            "mmlu-cot/anatomy/0",
            *(mmlu, "stem", "anatomy"),
            "Which?\n(A) x (B) y",
            "Step. The answer is (B).",
        ),
        ("mmlu-cot/anatomy/1", mmlu, "stem", "anatomy", "Why?", "Because\nof it."),
        ("mmlu-cot/law/0", mmlu, "other", "law", "Who?", "(A)."),
        ("HumanEval/0", "human-eval", "code", "python", "def f():\n", "    return 1\n"),
    ]
