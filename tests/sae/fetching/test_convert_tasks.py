"""From the members of a package to texts with labels: which data sets, their names and rows."""

import csv
import io
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from sparsteer.sae.fetching.convert_tasks import convert_probing_tasks

DATA = "sae_probes/data/"


def zstd_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    library: Any = import_module("pyarrow")
    with library.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(text.getvalue().encode())
    return path


def described(name: str, kind: str) -> dict[str, str]:
    return {"Dataset save name": f"cleaned_data/{name}.csv", "Data type": kind, "Notes": "kept?"}


def test_binary_data_sets_in_the_order_of_the_table(tmp_path: Path) -> None:
    table = [
        described("9_with a space", "Binary Classification"),
        described("10_many", "Multiclass Classification"),
        described("2_plain", "Binary Classification"),
        described("11_number", "Continuous Data"),
        described("", ""),
    ]
    spaced = [
        {"prompt": 'one, "two"\nthree é', "prompt_len": "5", "target": "yes"},
        {"prompt": "four", "prompt_len": "1", "target": "no"},
        {"prompt": "four", "prompt_len": "1", "target": "no"},
    ]
    plain = [{"prompt": " five ", "target": "1"}]
    files = {
        "probing_datasets_MASTER": table,
        "cleaned_data/2_plain": plain,
        "cleaned_data/9_with a space": spaced,
        "cleaned_data/10_many": [{"prompt": "six", "target": "a"}],
    }
    members = {
        f"{DATA}{name}.csv.zst": zstd_csv(tmp_path / f"{number}.zst", rows)
        for number, (name, rows) in enumerate(files.items())
    }
    convert_probing_tasks(members, tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.split("\n")[:-1]] == [
        {"dataset": "9_with a space", "text": 'one, "two"\nthree é', "label": "yes"},
        {"dataset": "9_with a space", "text": "four", "label": "no"},
        {"dataset": "9_with a space", "text": "four", "label": "no"},
        {"dataset": "2_plain", "text": " five ", "label": "1"},
    ]
