"""Make a dictionary that ships with the package, from its texts to its card.

    python -m benchmarks.make_dictionary [NAME] [--work DIR] [--cache DIR] [--run DIR] [--dry-run]

NAME is one of the settings in recipes/dictionaries/, by default that of the default language
model. The commands of `sparsteer` that it takes run one after another in DIR (dictionaries/NAME);
interrupted, the same command goes on. At the end the package's folder has the dictionary, whose
size was checked, and `python -m benchmarks.describe_dictionary` writes its figures for the pages.
"""

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.dictionary_steps import (
    SETTINGS,
    DictionarySettings,
    Places,
    Step,
    places_in,
    read_settings,
    steps,
)
from benchmarks.given_parts import require_same_cache, require_same_run
from sparsteer.app.publish.dictionary import DictionaryParts, write_dictionary
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.files import atomic_file, read_json, write_json
from sparsteer.sae.common.shipped import DEFAULT, FOLDER, MAKE_COMMAND
from sparsteer.sae.common.wording import size

_DONE = "done.json"
"""In the folder of the work: of each step that was done, what it was done with."""
_REPEATED = ("cache", "train", "fetch", "export")
"""Verbs that find by themselves that their work is done."""

Runner = Callable[[Sequence[str], Path | None], None]
"""Runs the command of these words, and keeps what it prints in a file if one is given."""


def make(
    settings: DictionarySettings,
    work: Path,
    out: Path,
    *,
    cache: Path | None = None,
    run: Path | None = None,
    execute: Runner,
    say: Callable[[str], None] = print,
) -> dict[str, int]:
    """Do every step that is not done yet, and write the dictionary.

    Args:
        settings: what it becomes.
        work: folder for all that is made on the way.
        out: folder of the dictionary; replaced.
        cache, run: an activation cache and a run that are there already, made with these settings.
        execute: runs a command of sparsteer.
        say: told each command before it runs.

    Returns:
        Bytes of each file of the dictionary.

    Raises:
        InputError: the cache or the run was made with other settings, or `write_dictionary`
            refuses.
    """
    places = places_in(work, cache=cache, run=run)
    work.mkdir(parents=True, exist_ok=True)
    if cache is not None:
        require_same_cache(settings, cache)
    if run is not None:
        require_same_run(settings, run)
    for step in steps(settings, places):
        is_given = (step.words[0] == "cache" and str(cache) in step.words) or (
            step.words[0] == "train" and run is not None
        )
        if is_given or (step.words[0] == "fetch" and cache is not None):
            continue
        if step.words[0] not in _REPEATED and _is_done(step, places):
            say(f"done already: {step.line}")
            continue
        say(step.line)
        execute(step.words, step.output)
        _note(step, places)
    parts = DictionaryParts(
        name=settings.name,
        run=places.run,
        compact=places.compact,
        cache=places.cache,
        evaluations={title: places.evaluation(title) for title in settings.evaluations},
        license=settings.license,
        limits=settings.limits,
        licenses=settings.licenses,
        commands=[step.line for step in steps(settings, places_in(default_work(settings.name)))],
        make=MAKE_COMMAND if settings.name == DEFAULT else f"{MAKE_COMMAND} {settings.name}",
    )
    return write_dictionary(parts, out, most_bytes=round(settings.most_megabytes * 1e6), say=say)


def default_work(name: str) -> Path:
    """Where a dictionary is made unless another folder is given."""
    return Path("dictionaries") / name


def in_a_process(words: Sequence[str], output: Path | None) -> None:
    """Run sparsteer in a process of its own, and end this one as it ended if it failed."""
    command = [sys.executable, "-m", "sparsteer", *words]
    if output is None:
        done = subprocess.run(command, check=False)
    else:
        with atomic_file(output) as temporary, temporary.open("wb") as file:
            done = subprocess.run([*command, "--json"], stdout=file, check=False)
            if done.returncode:
                raise SystemExit(done.returncode)
    if done.returncode:
        raise SystemExit(done.returncode)


def _is_done(step: Step, places: Places) -> bool:
    record = places.work / _DONE
    done = (
        read_json(record, "record of what is done", remedy="remove it") if record.exists() else {}
    )
    there = step.output is None or step.output.exists()
    return there and done.get(step.line) == _state(step, places)


def _note(step: Step, places: Places) -> None:
    record = places.work / _DONE
    done = (
        read_json(record, "record of what is done", remedy="remove it") if record.exists() else {}
    )
    write_json(record, {**done, step.line: _state(step, places)})


def _state(step: Step, places: Places) -> str:
    """What a step's result depends on beside its words: the autoencoder, its index where that is
    what it makes, and the cache, each by the file that has checksums of the rest."""
    files = [places.compact / "sae" / "config.json"]
    if step.words[0] == "features":
        files.append(places.compact / "features" / "manifest.json")
    if "--cache" in step.words:
        files.append(Path(step.words[step.words.index("--cache") + 1]) / "manifest.json")
    contents = (file.read_bytes() if file.exists() else b"" for file in files)
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="?", default=DEFAULT)
    parser.add_argument("--work", type=Path, help="default: dictionaries/NAME")
    parser.add_argument("--cache", type=Path, help="a cache of these texts that is there already")
    parser.add_argument("--run", type=Path, help="a run on it that is there already")
    parser.add_argument("--out", type=Path, help="default: the package's folder of dictionaries")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    given = parser.parse_args()
    settings = read_settings(SETTINGS / f"{given.name}.yaml")
    work = given.work or default_work(settings.name)
    if given.dry_run:
        for step in steps(settings, places_in(work, cache=given.cache, run=given.run)):
            print(step.line)
        return
    out = given.out or FOLDER / settings.name
    sizes = make(settings, work, out, cache=given.cache, run=given.run, execute=in_a_process)
    for name, n_bytes in sizes.items():
        print(f"{size(n_bytes):>10}  {name}")
    print(f"{size(sum(sizes.values())):>10}  in all, in {out}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
