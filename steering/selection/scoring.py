"""Score rows of instruction data by their likeness to a target task (arXiv 2503.15573).

Rows are scored part by part into OUT.parts/, and written with their scores when all are done, so an
interrupted run goes on where it stopped and OUT appears whole. OUT.scoring beside it says what it
was made from.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.files import atomic_file, remove_leftovers
from ...sae.common.locks import hold
from ...sae.fingerprint import sae_fingerprint
from ...training.data.row_files.opening import open_rows
from ...training.data.row_files.row_file import Column, Overview, RowFile
from ...training.data.row_files.row_text import RowText, TextFields, find_text_fields
from ..loading import LoadedRun, load_run_of
from .config import DEFAULT_METHOD, ScoreConfig
from .parts import Parts
from .read_rows import ReadRows, RowScore, read_rows, summary_of
from .record import ScoringRecord

_NAMED_ROWS = 3

Report = Callable[[int, int], None]
"""Told after each part: rows done, rows in all."""


def score(
    config: ScoreConfig,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    report: Report = lambda done, total: None,
) -> dict[str, Any]:
    """Write the rows of a file with three more columns: score, status and tokens of each.

    The score is what `config.method` says, by default the generalized Jaccard similarity, from 0 to
    1, of the row's mean code with the mean over the target's examples. It is null unless the status
    is ok or truncated. The other statuses are those of `RowScore`. Rows keep their order and
    content, JSON Lines byte for byte. A finished scoring is not made again, unless `config.force`
    is set.

    Returns:
        out, method, rows, scored, statuses (how many rows have each), status_rows (the first rows
        of each but ok, counted from 1), excluded (rows that cannot be read, if such are left out,
        and the first of them), text and target (what was read),
        score (mean and quantiles, None if nothing was scored), spearman_tokens (rank correlation of
        score and row length: near 1 or -1 the score says little but length; None if one of them is
        constant), tokens, in_target (rows with the very text of an example, which are sure to score
        high), seconds (of the call that scored), resumed_rows, reused (whether all was
        complete before this call).

    Raises:
        InputError: a file is missing, broken, empty or lacks the text's field; the columns are
            there already; run and model do not belong together; OUT holds something else than
            this scoring's result, or OUT.parts/ the parts of another one (unless `config.force`);
            or another process is writing OUT.
    """
    began = time.perf_counter()
    out = Path(config.out)
    skip_bad_rows = config.skip_bad_rows
    rows = open_rows(config.file, "FILE", skip_bad_rows=skip_bad_rows)
    target = open_rows(config.target, "--target", skip_bad_rows=skip_bad_rows)
    rows.require_same_kind(out)
    if out.resolve() in [file.resolve() for file in target.files]:
        raise InputError(f"--out {out} is the target as well; give another --out")
    with hold(out):
        return _score(config, rows, target, out, began, say, report)


def _score(
    config: ScoreConfig,
    rows: RowFile,
    target: RowFile,
    out: Path,
    began: float,
    say: Callable[[str], None],
    report: Report,
) -> dict[str, Any]:
    parts_folder = out.with_name(f"{out.name}.parts")
    record = ScoringRecord(out, force=config.force)
    parts = Parts(parts_folder, force=config.force)
    for path in (parts_folder, record.path):
        remove_leftovers(path.parent, path.name)
    overview = _overview(rows)
    _require_new_columns(overview, config)
    fields = find_text_fields(overview.columns, config.field, config.file, "--field")
    target_fields = _target_fields(target, config)
    say(f"text of {config.file}: {' + '.join(fields.fields)}{_detected(fields)}")
    settings = _settings(config, rows, target, fields, target_fields)
    # Before the model is loaded. What has no method of its own was scored by the default one.
    known = {"method": None, "seed": None} | settings
    record.require_same(_made_with(known, config), out)
    if not record.identity:
        parts.require_same(known)
    loaded = load_run_of(config, say)
    identity = {**settings, **_reader(loaded)}
    if record.is_of(made := _made_with(identity, config), out):
        if parts_folder.exists():  # killed before it could remove them
            parts.remove()
        say(f"{out} is complete ({overview.n_rows:,} rows); nothing to score")
        same = {"out": config.out, "file": config.file, "method": config.method, "reused": True}
        return {**record.summary, **same}
    examples = [target_fields.text_of(row) for row in target.rows(fields=target_fields.fields)]
    parts.begin(identity)
    try:
        examples_read = _read_target(loaded, examples, config)
        found = parts.read()
        n_resumed = len(found)
        if n_resumed:
            say(f"{n_resumed:,} of {overview.n_rows:,} rows were scored before")
        for part in _scored_parts(loaded, rows, fields, examples_read, config, n_resumed):
            parts.append(part)
            found += part
            report(len(found), overview.n_rows)
    finally:
        parts.remove_if_empty()
    scored = parts.folder / f"rows-{out.name}"
    rows.write(scored, added=_columns(found, config.prefix))
    summary = {
        "out": config.out,
        "file": config.file,
        "model": loaded.model.name,
        "site": loaded.site.name,
        "method": config.method,
        **summary_of(found),
        "excluded": {
            "rows": len(overview.excluded),
            "first": list(overview.excluded[:_NAMED_ROWS]),
        },
        "text": fields.described(),
        "target": _about_target(examples_read, target_fields, config),
        "in_target": _shared(rows, fields, examples),
        "seconds": time.perf_counter() - began,
        "resumed_rows": n_resumed,
        "reused": False,
    }
    record.write(scored, out, made, summary)
    with atomic_file(out) as temporary:
        scored.rename(temporary)
    parts.remove()
    return summary


def _overview(file: RowFile) -> Overview:
    overview = file.overview()
    if overview.n_rows == 0:
        raise InputError(f"{file.path} holds no rows; give a file with at least one")
    return overview


def _require_new_columns(overview: Overview, config: ScoreConfig) -> None:
    for name in _columns([], config.prefix):
        if name in overview.columns:
            raise InputError(
                f"{config.file} has a column {name!r} already; give another --prefix than "
                f"{config.prefix}"
            )


def _columns(found: list[RowScore], prefix: str) -> dict[str, Column]:
    return {
        f"{prefix}_score": Column("double", [row.score for row in found]),
        f"{prefix}_status": Column("string", [row.status for row in found]),
        f"{prefix}_tokens": Column("int64", [row.tokens for row in found]),
    }


def _target_fields(target: RowFile, config: ScoreConfig) -> TextFields:
    given = config.target_field or (None if target.plain_text else config.field)
    columns = _overview(target).columns
    return find_text_fields(columns, given, config.target, "--target-field")


def _detected(fields: TextFields) -> str:
    return "" if fields.layout == "given" else f" (layout {fields.layout}, detected)"


def _read_target(loaded: LoadedRun, examples: list[RowText], config: ScoreConfig) -> ReadRows:
    read = read_rows(loaded, examples, batch_size=config.batch_size, max_length=config.max_length)
    read.require_readable(f"the target {config.target}")
    return read


def _shared(rows: RowFile, fields: TextFields, examples: list[RowText]) -> int:
    """How many rows have the very text of an example."""
    texts = {example.text for example in examples if example.text}
    return sum(fields.text_of(row).text in texts for row in rows.rows(fields=fields.fields))


def _settings(
    config: ScoreConfig,
    rows: RowFile,
    target: RowFile,
    fields: TextFields,
    target_fields: TextFields,
) -> dict[str, Any]:
    """What scores depend on besides what reads them; parts of other settings are not mixed with
    these."""
    return {
        "rows": rows.fingerprint(),
        "target": target.fingerprint(),
        "field": "+".join(fields.fields),
        "target_field": "+".join(target_fields.fields),
        "long_rows": config.long_rows,
        "max_length": config.max_length,
        "part_rows": config.part_rows,
        **(
            {}
            if config.method == DEFAULT_METHOD
            else {"method": config.method, "seed": config.seed}
        ),
    }


def _reader(loaded: LoadedRun) -> dict[str, Any]:
    """What reads the rows; parts that another one read are not mixed with its own."""
    return {
        "autoencoder": sae_fingerprint(loaded.sae),
        "model": loaded.model.weights_hash,
        "model_dtype": loaded.model.dtype_name,
        "site": loaded.site.name,
    }


def _made_with(identity: dict[str, Any], config: ScoreConfig) -> dict[str, Any]:
    """What the written file depends on: not on the size of parts, but on the columns' names."""
    rest = {name: value for name, value in identity.items() if name != "part_rows"}
    return {**rest, "prefix": config.prefix}


def _about_target(target: ReadRows, fields: TextFields, config: ScoreConfig) -> dict[str, Any]:
    return {
        "file": config.target,
        "rows": len(target.rows),
        "used": len(target.readable.rows),
        "statuses": dict(sorted(Counter(row.status for row in target.rows).items())),
        "text": fields.described(),
        "active_latents": int((target.readable.mean_code_F > 0).sum()),
    }


def _scored_parts(
    loaded: LoadedRun,
    rows: RowFile,
    fields: TextFields,
    target: ReadRows,
    config: ScoreConfig,
    start: int,
) -> Iterator[list[RowScore]]:
    source = rows.rows(start, fields.fields)
    while texts := [fields.text_of(row) for row in islice(source, config.part_rows)]:
        read = read_rows(
            loaded,
            texts,
            batch_size=config.batch_size,
            max_length=config.max_length,
            skip_long=config.long_rows == "skip",
            first=start,
        )
        start += len(texts)
        yield read.scored_against(target, config.method, config.seed)
