"""Score and select through files: rows stay as they are, in both formats, resumed or not."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import InputError, LanguageModel, Origin, SparseAutoencoder
from sparsteer.sae.common.locks import hold
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.selection import ScoreConfig, SelectConfig, score, select, select_for_target

LINES = [
    b'{"id": 1, "instruction": "Add 3 and 4.", "input": "", "output": "7"}',
    b'{ "id":2.50, "instruction":"caf\\u00e9 \\/ \xe2\x98\x83", "output":"1e5" , "n": 1E400}  ',
    b'{"id": 12345678901234567890123, "output": null, "instruction": null}',
    b'{"instruction": {"nested": [1, null]}, "output": "x"}',
    b"{}",
    b'{"instruction": "' + b"long words " * 60 + b'", "output": "end"}',
    b'{"instruction": "z", "id": 1, "id": 2}',
    b'{"instruction": "A lone \\ud800 half", "extra": [{"deep": {}}]}',
]
STATUSES = ["ok", "ok", "empty", "not_text", "missing", "truncated", "too_short", "ok"]
TARGET = [{"question": "What is 5 + 6?", "answer": "11"}, {"question": "", "answer": None}]
PREFIX = b', "sparsteer_score": '


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tiny_model: LanguageModel) -> None:
    """The language model that is loaded already."""

    def load(source: str, **options: Any) -> LanguageModel:
        return tiny_model

    monkeypatch.setattr(LanguageModel, "load", load)


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: LanguageModel, tiny_model_folder: Path
) -> str:
    """The folder of an untrained autoencoder that knows its model."""
    origin = Origin(
        model=str(tiny_model_folder),
        site=tiny_model.site().name,
        weights_hash=tiny_model.weights_hash,
    )
    sae = SparseAutoencoder(TopKConfig(tiny_model.d_model, 64, 6), seed=5, origin=origin)
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    sae.save(folder)
    return str(folder)


@pytest.fixture
def config(tmp_path: Path, run: str) -> ScoreConfig:
    """Scores LINES; of long rows 200 tokens are read."""
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(LINES) + b"\n")
    (tmp_path / "target.jsonl").write_text("\n".join(map(json.dumps, TARGET)))
    return ScoreConfig(
        file=str(tmp_path / "rows.jsonl"),
        target=str(tmp_path / "target.jsonl"),
        run=run,
        out=str(tmp_path / "scored.jsonl"),
        max_length=200,
        part_rows=3,
    )


def read_jsonl(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def parquet() -> Any:
    """pyarrow's module, which has no types."""
    return import_module("pyarrow.parquet")


def read_table(path: str) -> Any:
    return parquet().read_table(path)


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    table = import_module("pyarrow").Table.from_pylist(rows)
    parquet().write_table(table.replace_schema_metadata({"own": "kept"}), path, **options)
    return path


def test_jsonl_rows_stay_byte_for_byte(config: ScoreConfig) -> None:
    summary = score(config)
    lines = Path(config.out).read_bytes().splitlines()
    assert len(lines) == len(LINES)
    for before, after in zip(LINES, lines, strict=True):
        own = before.strip().removesuffix(b"}").rstrip()
        expected = own + (PREFIX if own != b"{" else PREFIX.removeprefix(b", "))
        assert after.startswith(expected)
    rows = read_jsonl(config.out)
    assert [row["sparsteer_status"] for row in rows] == STATUSES
    for row in rows:
        scored = row["sparsteer_status"] in ("ok", "truncated")
        assert (0 < row["sparsteer_score"] <= 1) if scored else row["sparsteer_score"] is None
    assert [row["sparsteer_tokens"] for row in rows][2:7] == [0, None, None, 665, 1]
    assert summary["statuses"] == {s: STATUSES.count(s) for s in sorted(set(STATUSES))}
    assert (summary["rows"], summary["scored"], summary["resumed_rows"]) == (8, 4, 0)
    assert summary["text"] == {
        "layout": "instruction",
        "fields": ["instruction", "input", "output"],
    }
    assert summary["target"]["statuses"] == {"empty": 1, "ok": 1}
    assert summary["in_target"] == 0
    assert summary["target"]["used"] == 1 and summary["target"]["active_latents"] > 0
    assert not list(Path(config.out).parent.glob("*.parts"))
    assert not list(Path(config.out).parent.glob(".tmp-*"))


def test_scores_are_those_of_the_selection_in_memory(
    config: ScoreConfig, tiny_model: LanguageModel
) -> None:
    score(config)
    rows = read_jsonl(config.file)
    found = select_for_target(
        tiny_model,
        tiny_model.site(),
        SparseAutoencoder.load(config.run),
        rows,
        TARGET,
        0.5,
        max_length=200,
    )
    for row, expected in zip(read_jsonl(config.out), found.rows, strict=True):
        assert row["sparsteer_status"] == expected.status
        assert (row["sparsteer_score"] or 0) == pytest.approx(expected.score or 0, rel=1e-5)


def test_parquet_keeps_types_metadata_and_row_groups(config: ScoreConfig, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "messages": [{"role": "user", "content": f"row {n} of them"}],
            "id": n,
            "tags": ["a", None],
        }
        for n in range(11)
    ]
    rows[4]["messages"] = None
    path = write_parquet(tmp_path / "rows.parquet", rows, row_group_size=4, compression="zstd")
    out = str(tmp_path / "scored.parquet")
    summary = score(replace(config, file=str(path), out=out))
    before, after = read_table(str(path)), read_table(out)
    assert after.schema.metadata == before.schema.metadata == {b"own": b"kept"}
    assert after.select(before.column_names).equals(before)
    assert after.schema.names[3:] == ["sparsteer_score", "sparsteer_status", "sparsteer_tokens"]
    assert [str(kind) for kind in after.schema.types[3:]] == ["double", "string", "int64"]
    assert parquet().ParquetFile(out).num_row_groups == 3
    statuses = after.column("sparsteer_status").to_pylist()
    assert statuses == ["ok"] * 4 + ["empty"] + ["ok"] * 6
    assert summary["text"] == {"layout": "messages", "fields": ["messages"]}
    taken = str(tmp_path / "taken.parquet")
    assert select(SelectConfig(file=out, out=taken, count=5))["selected"] == 5
    kept = read_table(taken)
    assert kept.schema.equals(after.schema, check_metadata=True)
    best = sorted(after.to_pylist(), key=lambda row: -(row["sparsteer_score"] or 0))[:5]
    assert kept.to_pylist() == sorted(best, key=lambda row: row["id"])


def test_both_formats_have_the_same_scores(config: ScoreConfig, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"Say {n}", "completion": "n" * n} for n in range(9)]
    jsonl = tmp_path / "r.jsonl"
    jsonl.write_text("\n\n".join(map(json.dumps, rows)))
    table = write_parquet(tmp_path / "r.parquet", rows)
    score(replace(config, file=str(jsonl), out=str(tmp_path / "o.jsonl")))
    score(replace(config, file=str(table), out=str(tmp_path / "o.parquet")))
    assert (
        read_jsonl(str(tmp_path / "o.jsonl")) == read_table(str(tmp_path / "o.parquet")).to_pylist()
    )


def test_compressed_rows_and_a_byte_order_mark(config: ScoreConfig, tmp_path: Path) -> None:
    score(config)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + Path(config.file).read_bytes()))
    out = tmp_path / "out.jsonl.gz"
    score(replace(config, file=str(packed), out=str(out)))
    assert gzip.decompress(out.read_bytes()) == Path(config.out).read_bytes()


class Killed(Exception):
    """Stands for whatever ends a run."""


def test_an_interrupted_run_goes_on(config: ScoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    score(config)
    whole = Path(config.out).read_bytes()
    again = replace(config, out=config.out.replace("scored", "again"))

    def stop(done: int, total: int) -> None:
        assert total == len(LINES)
        if done >= 6:
            raise Killed

    with pytest.raises(Killed):
        score(again, report=stop)
    assert not Path(again.out).exists()
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "load", None)  # refused before it is loaded
        with pytest.raises(InputError, match="with another --max-length; give another --out"):
            score(replace(again, max_length=100))
    # What a kill in the middle of a write leaves.
    for folder in (f"{again.out}.parts", str(Path(again.out).parent)):
        name = "again.jsonl" if not folder.endswith(".parts") else "part-000002.json"
        (Path(folder) / f".tmp-0123456789ab-{name}").write_text("half")
    seen: list[int] = []
    summary = score(again, report=lambda done, total: seen.append(done))
    assert summary["resumed_rows"] == 6 and seen == [8]
    assert Path(again.out).read_bytes() == whole
    left = sorted(path.name for path in Path(again.out).parent.iterdir())
    scored = ["again.jsonl", "again.jsonl.scoring", "scored.jsonl", "scored.jsonl.scoring"]
    assert left == sorted([*scored, "rows.jsonl", "target.jsonl"])


def test_killed_in_its_first_write_it_goes_on(config: ScoreConfig) -> None:
    folder = Path(f"{config.out}.parts")
    folder.mkdir()
    (folder / ".tmp-0123456789ab-manifest.json").write_text("{")
    (folder.parent / ".tmp-0123456789ab-scored.jsonl.parts").mkdir()  # killed while it removed them
    (folder.parent / ".lock-scored.jsonl").touch()
    assert score(config)["rows"] == len(LINES)
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == ["rows.jsonl", "scored.jsonl", "scored.jsonl.scoring", "target.jsonl"]


def test_a_complete_scoring_is_not_made_again(
    config: ScoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(config)
    before = Path(config.out).stat().st_mtime_ns, Path(config.out).read_bytes()
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("sparsteer.steering.selection.scoring.read_rows", None)  # reads nothing
        for again in (config, replace(config, batch_size=3, part_rows=1)):
            found = score(again, say=said.append)
            assert found == {**json.loads(json.dumps(first)), "reused": True}
    assert f"{config.out} is complete (8 rows); nothing to score" in said
    assert before == (Path(config.out).stat().st_mtime_ns, Path(config.out).read_bytes())
    for other, name in (
        (replace(config, max_length=100), "another --max-length"),
        (replace(config, prefix="own"), "another --prefix"),
        (replace(config, file=config.target), "other rows"),
        (replace(config, target=config.file), "another target"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(LanguageModel, "load", None)  # refused before it is loaded
            with pytest.raises(InputError, match=f"made with {name}; give another --out, or"):
                score(other)
        assert Path(config.out).read_bytes() == before[1]
    other = replace(config, max_length=100)
    shorter = score(replace(other, force=True))
    assert Path(config.out).read_bytes() != before[1]
    assert score(other)["score"] == shorter["score"] != first["score"]


def test_a_changed_record_of_a_scoring_is_found(config: ScoreConfig) -> None:
    whole = score(config)
    record = Path(f"{config.out}.scoring")
    content = record.read_text()
    values = json.loads(content)
    values["summary"]["scored"] += 1
    without = {name: value for name, value in values.items() if name != "identity"}
    for changed in (json.dumps(values), json.dumps(without), content.replace("8", "9"), "{"):
        record.write_text(changed)
        with pytest.raises(InputError, match=f"{record}.*; give another --out, or --force"):
            score(config)
    assert score(replace(config, force=True))["score"] == whole["score"]
    assert score(config)["statuses"] == whole["statuses"]


@pytest.mark.parametrize("content", [b"mine\n", b""])
def test_a_file_that_no_scoring_wrote_is_kept(config: ScoreConfig, content: bytes) -> None:
    out = Path(config.out)
    out.write_bytes(content)
    for _ in range(2):
        with pytest.raises(InputError, match="not as a scoring left it; give another --out, or"):
            score(config)
        assert out.read_bytes() == content
    score(replace(config, force=True))
    whole = out.read_bytes()
    out.write_bytes(whole + b"{}\n")
    with pytest.raises(InputError, match="not as a scoring left it"):
        score(config)
    assert out.read_bytes() == whole + b"{}\n"


def test_a_scoring_that_fails_at_once_leaves_nothing(config: ScoreConfig) -> None:
    before = sorted(path.name for path in Path(config.out).parent.iterdir())
    with pytest.raises(InputError):
        score(replace(config, device="cpu", target=config.file, target_field="none"))
    with pytest.raises((InputError, ValueError, OverflowError)):
        score(replace(config, part_rows=2**63))
    assert sorted(path.name for path in Path(config.out).parent.iterdir()) == before


def test_two_scorings_of_one_file(config: ScoreConfig) -> None:
    with hold(config.out), pytest.raises(InputError, match="another process is writing"):
        score(config)
    score(config)
    chosen = SelectConfig(file=config.out, out=f"{config.out}.best.jsonl", count=1)
    with hold(chosen.out), pytest.raises(InputError, match="another process is writing"):
        select(chosen)


def test_a_damaged_or_foreign_parts_folder_is_named(config: ScoreConfig) -> None:
    folder = Path(f"{config.out}.parts")
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="is not of a scoring"):
        score(config)
    (folder / "mine.txt").unlink()

    def stop(done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        score(config, report=stop)
    for name, damage in (
        ("part-000000.json", '{"rows": [[1]]}'),
        ("part-000000.json", '{"rows": [[0.5, "o'),
        ("part-000000.json", "[]"),
        ("part-000000.json", '{"rows": [[NaN, "ok", 3]]}'),
        ("part-000000.json", '{"rows": [[0.57, "ok", "3"]]}'),
        ("manifest.json", '{"rows": "'),
    ):
        (folder / name).write_text(damage)
        remedy = re.escape(f"; remove {folder} to score anew")
        with pytest.raises(InputError, match=rf"{name} .*{remedy}$"):
            score(config)


def test_a_changed_digit_in_saved_scores_is_found(config: ScoreConfig) -> None:
    score(config)
    wanted = Path(config.out).read_bytes()
    again = replace(config, out=config.out.replace("scored", "again"))

    def stop(done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        score(again, report=stop)
    folder = Path(f"{again.out}.parts")
    for name, digits in (("part-000000.json", r"0\.\d(\d)"), ("manifest.json", r'rows": "(\w)')):
        path = folder / name
        whole = path.read_text()
        found = re.search(digits, whole)
        assert found is not None
        changed = "1" if found[1] == "0" else "0"
        path.write_text(whole[: found.start(1)] + changed + whole[found.end(1) :])
        with pytest.raises(InputError, match=rf"{name} has changed .*; remove .* to score anew"):
            score(again)
        path.write_text(whole)
    score(again)
    assert Path(again.out).read_bytes() == wanted


def test_rows_that_are_examples_themselves_are_counted(config: ScoreConfig) -> None:
    Path(config.target).write_bytes(LINES[0] + b'\n{"instruction": "Other"}\n' + LINES[2])
    assert score(config)["in_target"] == 1  # the row without a text is none


def test_long_rows_can_be_left_unscored(config: ScoreConfig) -> None:
    summary = score(replace(config, long_rows="skip"))
    row = read_jsonl(config.out)[5]
    assert (row["sparsteer_status"], row["sparsteer_score"]) == ("too_long", None)
    assert row["sparsteer_tokens"] == 665
    assert summary["scored"] == 3


def test_fields_and_prefix_can_be_chosen(config: ScoreConfig, tmp_path: Path) -> None:
    twice = replace(config, file=config.out, out=str(tmp_path / "twice.jsonl"))
    score(config)
    with pytest.raises(InputError, match=r"column 'sparsteer_score' already.*--prefix"):
        score(twice)
    summary = score(replace(twice, prefix="b", field="output", target_field="question+answer"))
    assert summary["text"] == {"layout": "given", "fields": ["output"]}
    assert summary["target"]["text"]["fields"] == ["question", "answer"]
    assert list(read_jsonl(twice.out)[0])[-3:] == ["b_score", "b_status", "b_tokens"]
    taken = replace_out(twice.out, "taken.jsonl")
    select(SelectConfig(file=twice.out, out=taken, count=1, column="b_score"))
    (row,) = read_jsonl(taken)
    assert row["b_score"] == max(row["b_score"] or 0 for row in read_jsonl(twice.out))


def replace_out(path: str, name: str) -> str:
    return str(Path(path).parent / name)


Change = Callable[[ScoreConfig, Path], ScoreConfig]


def with_file(name: str, content: bytes, option: str = "file") -> Change:
    def change(config: ScoreConfig, folder: Path) -> ScoreConfig:
        (folder / name).write_bytes(content)
        return replace(config, **{option: str(folder / name)})

    return change


def with_path(option: str, name: str) -> Change:
    return lambda config, folder: replace(config, **{option: str(folder / name)})


OK_LINE = b'{"text": "fine"}\n'


@pytest.mark.parametrize(
    "change, message",
    [
        (with_file("a.jsonl", OK_LINE * 2 + b'{"text": "cut'), r"a\.jsonl, line 3 is not valid"),
        (with_file("a.jsonl", b"\n\n[1]"), r"entry 1 holds 1 where an object"),
        (with_file("a.jsonl", b'[{"text": "x"},\n'), r"entry 2 is not valid.*one object a line"),
        (with_file("a.jsonl", OK_LINE + b"null"), r"line 2 holds null where an object"),
        (with_file("a.jsonl", OK_LINE + b'{"text": "\xff"}'), r"line 2 is not UTF-8 \(byte 0xff"),
        (with_file("a.jsonl", b"\n \n"), "holds no rows"),
        (with_file("a.jsonl", b'{"body": "x"}'), "none of the fields.*--field: body"),
        (with_file("a.jsonl.gz", b"\x1f\x8bno gzip"), r"a\.jsonl\.gz is damaged"),
        (with_file("a.jsonl.gz", gzip.compress(OK_LINE * 99)[:-9]), "is damaged"),
        (with_file("a.xlsx", b"text\nx"), r"FILE .*a\.xlsx is not a file ending in"),
        (with_file("t.jsonl", b"", "target"), "t.jsonl holds no rows"),
        (
            with_file("t.jsonl", b'{"text": "\\n"}', "target"),
            r"t.jsonl has no example that .*status empty",
        ),
        (with_file("t.jsonl", b'{"body": "x"}', "target"), "--target-field: body"),
        (with_path("file", "gone.jsonl"), "FILE .*gone.jsonl is not there"),
        (with_path("target", "gone.parquet"), "--target .*gone.parquet is not there"),
        (with_path("run", "gone"), "gone does not exist"),
        (with_path("out", "rows.jsonl"), "is the input as well"),
        (with_path("out", "target.jsonl"), "is the target as well"),
        (with_path("out", "."), "is a folder"),
        (with_path("out", "out.parquet"), "another format.*ends in .jsonl"),
    ],
)
def test_wrong_files_are_named(
    config: ScoreConfig, tmp_path: Path, change: Change, message: str
) -> None:
    changed = change(config, tmp_path)
    if not changed.out.endswith("parquet") and changed.file.endswith(".gz"):
        changed = replace(changed, out=f"{changed.out}.gz")
    with pytest.raises(InputError, match=message):
        score(changed)
    assert not (tmp_path / "scored.jsonl").exists()


def test_a_damaged_parquet_file_is_named(config: ScoreConfig, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [{"text": "some words"}] * 50)
    content = path.read_bytes()
    out = str(tmp_path / "out.parquet")
    for broken in (content[:-20], b"PAR1", content[:4] + b"\xff" * 40 + content[44:]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"rows\.parquet is damaged"):
            score(replace(config, file=str(path), out=out))
    assert not Path(out).exists()


@pytest.mark.parametrize(
    "change, field",
    [
        ({"file": ""}, "file"),
        ({"field": "a+"}, "field"),
        ({"target_field": ""}, "target_field"),
        ({"max_length": 0}, "max_length"),
        ({"part_rows": 0}, "part_rows"),
        ({"long_rows": "cut"}, "long_rows"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_settings_are_named(config: ScoreConfig, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(config, **change)
    assert caught.value.field == field
