"""The wrong inputs: each option of each verb times a list of values, and files of wrong content."""

import json
import os
from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from sparsteer.cli.main import VERBS
from sparsteer.cli.options import Option
from sparsteer.sae.common.checksums import with_checksum

from .wrong_inputs import Case

_SITE = "blocks.1.hook_resid_post"
_SMALL = ("--n-latents", "48", "--k", "4", "--tokens", "400", "--batch-size", "50")
_STREAM = ("--model", "model", "--dataset", "text.jsonl", "--context-length", "32")

_TEXTS = (
    *("--positive", "rude.txt", "--negative", "kind.txt", "--neutral", "neutral.txt"),
    *("--prompts", "prompts.txt", "--questions", "questions.jsonl"),
    *("--scorer", "toxicity-ngrams", "--cost", "strength=1", "--small", "--n-prompts", "2"),
    *("--continuations", "1", "--max-new-tokens", "2", "--draws", "2", "--out", "new"),
)

GOOD: dict[str, tuple[str, ...]] = {
    "fetch": ("no-such-name",),
    "site check": (*_STREAM, "--tokens", "200"),
    "cache": (*_STREAM, "--tokens", "200", "--out", "new"),
    "cache info": ("cache",),
    "cache verify": ("cache",),
    "train": ("--cache", "cache", "--site", _SITE, "--out", "new", *_SMALL),
    "eval": ("run", "--cache", "cache", "--contexts", "0"),
    "l0": ("run", "--cache", "cache", "--contexts", "2"),
    "synthetic eval": ("--samples", "1024", "--rows", "2", "--seeds", "1"),
    "import": ("run", "--out", "new", "--no-check"),
    "export": ("run", "--out", "new"),
    "publish": ("run", "--repo", "owner/name", "--out", "new"),
    "demo": ("--model", "no-such-folder/model", "--dataset", "text.jsonl", "--out", "new"),
    "features build": ("run", "--cache", "cache"),
    "features list": ("run",),
    "features show": ("run", "3"),
    "features label": ("run", "--endpoint", "http://127.0.0.1:9/v1", "--dry-run"),
    "features quiz": ("run", "--out", "new", "--n", "3", "--pairs", "1"),
    "features quiz-score": ("quiz", "--answers", "answers.json"),
    "features export": ("run", "--static", "new", "--feature", "3"),
    "features find": ("run", "--positive", "texts.txt", "--negative", "others.txt"),
    "features search": ("run", "--near", "3"),
    "features shared": ("run", "3"),
    "pick": ("run", "add", "3"),
    "serve": ("run", "--port", "0"),
    "verify": ("run",),
    "completion": ("bash",),
    "generate": ("run", "--feature", "3", "--prompt", "abc", "--max-new-tokens", "2"),
    "steer fit": (
        *("mean_difference", "--model", "model", "--site", _SITE, "--positive", "texts.txt"),
        *("--negative", "others.txt", "--held-out", "0", "--out", "new"),
    ),
    "steer calibrate": (
        *("steering.json", "--run", "run", "--kl", "0.01", "--prompts", "texts.txt"),
        *("--n-prompts", "2", "--max-new-tokens", "2", "--evaluations", "2", "--out", "new"),
    ),
    "steer trace": (
        *("steering.json", "--run", "run", "--concept", "texts.txt", "--unrelated", "others.txt"),
        *("--max-new-tokens", "2", "--value-vectors", "2", "--draws", "1", "--limit", "2"),
    ),
    "steer eval": ("run", *_TEXTS, "--methods", "mean_difference", "--n-questions", "1"),
    "detox eval": ("run", *_TEXTS, "--methods", "mean_difference", "--n-questions", "1"),
    "detox widths": ("run", *_TEXTS),
    "score": ("rows.jsonl", "--target", "target.jsonl", "--run", "run", "--out", "new.jsonl"),
    "explain": ("explained.jsonl", "--row", "1", "--run", "run"),
    "select": ("scored.jsonl", "--count", "2", "--out", "new.jsonl"),
}
"""Words with which the verbs do a little work in the world; the demo ends at its model,
and the server ends once it answers."""

ESCAPES = "\x1b]0;title\x07\x1b[2J\x1b[31mname\u202e\r"

_NO_TEXT = {"nul": "a\0b", "not UTF-8": "a\udcff"}
_ODD_TEXT = {
    "empty": "",
    "spaces": "   ",
    "escapes": ESCAPES,
    "300 characters": "n" * 300,
    "100,000 characters": "n" * 100_000,
    "dots": "..",
    "slash": "/",
    "formats": "%s {0} $(x) `x` [bold]",
}
_NO_NUMBER = {
    **_NO_TEXT,
    **_ODD_TEXT,
    "other digits": "\u0663",
    "full-width digit": "\uff15",
    "space before": " 5",
    "space after": "5 ",
    "hexadecimal": "0x10",
    "word": "many",
    "complex": "1j",
    "two": "1,2",
    "not a number": "nan",
    "infinity": "inf",
    "overflow": "1e400",
}
_NO_INTEGER = {
    **_NO_NUMBER,
    "fraction": "1.5",
    "exponent": "1e3",
    "2**63": str(2**63),
    "2**64": str(2**64),
    "10**20": str(10**20),
    "-2**63-1": str(-(2**63) - 1),
    "6,000 digits": "9" * 6000,
    "negative": "-1",
}
_ODD_INTEGER = {"zero": "0", "2**62": str(2**62), "2**40": str(2**40)}
_ODD_NUMBER = {"zero": "0", "negative": "-1", "minus infinity": "-inf", "tiny": "1e-400"}
_NO_PATH = {
    **_NO_TEXT,
    "empty": "",
    "300 characters": "n" * 300,
    "5,000 characters": "n/" * 2500,
    "100,000 characters": "n" * 100_000,
    "no such user": "~no-such-user/x",
    "loop": "odd/loop",
    "pipe": "odd/pipe",
    "socket": "odd/socket",
    "device": "/dev/zero",
    "null device": "/dev/null",
    "below a file": "text.jsonl/inside",
}
_ODD_PATH = {
    "escapes": ESCAPES,
    "missing": "odd/missing",
    "home": "~",
    "in the home": "~/missing",
    "folder": "odd",
    "empty file": "odd/empty",
    "zeros": "odd/zeros.txt",
    "unreadable": "odd/unreadable.jsonl",
    "numbers": "odd/numbers.jsonl",
    "key with escapes": "odd/escapes.jsonl",
    "cut": "odd/cut.jsonl",
    "no parquet": "odd/no.parquet",
    "link to nothing": "odd/nothing",
    "proc": "/proc",
    "memory": "/proc/self/mem",
    "root": "/",
    "pattern": "*.jsonl",
}
_NO_DEVICE = ("meta", "privateuseone", "cuda:99", "cpu:-1", "xla", "mps:1", "gpu", "2**64")
_WITHOUT_END = (
    *("tokens", "training-tokens", "max-new-tokens", "prompts", "shuffle-buffer"),
    "samples",
)
"""Amounts of work: a large one is right, and never done."""


def option_cases() -> Generator[Case]:
    """Each option of each verb with each value; those of verbs that come later, too."""
    for name, verb in VERBS.items():
        for option in verb.options().values():
            for kind, value, is_wrong in _values(option):
                words = [*name.split(), *_with(name, option, value)]
                yield Case(f"{name} {option.shown} {kind}", words, is_wrong=is_wrong)


def _values(option: Option) -> Generator[tuple[str, str, bool]]:
    """What kind of value, the value, and whether it is surely wrong."""
    if option.is_switch:
        yield from (("a value", word, True) for word in ("yes", "", "0", "\u0663"))
        return
    is_integer, is_number = "whole" in option.expected, "number" in option.expected
    wrong, odd = _NO_TEXT, _ODD_TEXT
    if option.may_be_any_text:
        wrong, odd = {}, {**_NO_TEXT, **_ODD_TEXT}
    elif option.choices:
        wrong, odd = {**_NO_TEXT, **_ODD_TEXT}, {}
    elif is_integer:
        wrong, odd = dict(_NO_INTEGER), dict(_ODD_INTEGER)
        if option.name.replace("_", "-") in _WITHOUT_END:
            odd = {"zero": "0"}
    elif is_number:
        wrong, odd = _NO_NUMBER, _ODD_NUMBER
    elif option.is_path:
        wrong, odd = _NO_PATH, _ODD_PATH
    elif option.name == "device":
        wrong, odd = {**_NO_TEXT, **_ODD_TEXT, **{name: name for name in _NO_DEVICE}}, {}
    yield from ((kind, value, True) for kind, value in wrong.items())
    yield from ((kind, value, False) for kind, value in odd.items())


def _with(name: str, option: Option, value: str) -> list[str]:
    """The good words of the verb with the value in the place of the option's own."""
    words = list(GOOD.get(name, ()))
    if option.is_switch:
        return [*words, f"{option.shown}={value}"]
    if not option.positional:
        return [*_without(words, option.shown), f"{option.shown}={value}"]
    place = [o.name for o in VERBS[name].options().values() if o.positional].index(option.name)
    if place < len(words):
        words[place] = value
    else:
        words.append(value)
    flags = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
    return [*words[flags:], "--", *words[:flags]]


def _without(words: list[str], flag: str) -> list[str]:
    """The words but for an option and its value."""
    if flag not in words:
        return words
    at = words.index(flag)
    return words[:at] + words[at + 2 :]


_NO_RECIPE = {
    "bad date": "lr: 2020-13-45",
    "bad integer": "tokens: !!int abc",
    "bad float": "lr: !!float abc",
    "bad switch": "plots: !!bool maybe",
    "digits": f"tokens: {'9' * 6000}",
    "nested": "tokens: " + "[" * 3000,
    "anchor": "tokens: *nothing",
    "twice": "seed: 1\nseed: 2",
    "twice in two ways": "log_every: 1\nlog-every: 2",
    "nul": 'out: "a\\0b"',
    "nul in a name": '"a\\0b": 1',
    "python": "tokens: !!python/object/apply:os.system [ls]",
    "list": "- 1",
    "text": "tokens",
    "tab": "\ttokens: 1",
    "escapes": '"\\e]0;title\\a": 1',
    "escapes in a value": 'tokens: "\\e]0;title\\a"',
    "surrogate": 'out: "\\ud800"',
    "number as name": "5: 1",
    "none as name": "null: 1",
    "list as name": "? [1]\n: 2",
    "list as value": "tokens: [1, 2]",
    "huge": "seed: 99999999999999999999",
    "not a number": "lr: .nan",
    "merge": "<<: 5",
    "set": "tokens: !!set {1}",
    "binary": "tokens: !!binary x",
    "bomb": "a0: &a0 [1]\n"
    + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9))
    + "tokens: *a9",
    "holds itself": "tokens: &a [*a]",
    "document twice": "tokens: 1\n---\ntokens: 2",
}
_JSON_VALUES: dict[str, Any] = {
    "null": None,
    "number": 5,
    "zero": 0,
    "negative": -1,
    "huge": 10**20,
    "million": 10**6,
    "fraction": 0.5,
    "text": "x",
    "empty text": "",
    "escapes": ESCAPES,
    "true": True,
    "list": [],
    "list of lists": [[[]]],
    "object": {},
    "object with escapes": {ESCAPES: ESCAPES},
}
_NO_JSON = {
    "empty": b"",
    "zeros": b"\0" * 100,
    "not UTF-8": b'{"a": "\xff"}',
    "number": b"5",
    "null": b"null",
    "nested": b'{"a":' * 100_000,
    "digits": b'{"a": ' + b"9" * 6000 + b"}",
    "cut": b'{"a": ',
    "infinity": b'{"a": Infinity}',
    "escapes": b'{"\x1b]0;title\x07": "\x1b[2J"}',
    "twice": b'{"a": 1, "a": 2}',
}
READERS: dict[str, tuple[str, ...]] = {
    "cache/manifest.json": ("cache info", "cache verify", "train", "eval", "features build"),
    "run/sae/config.json": ("export", "eval", "features show", "score", "pick"),
    "run/features/manifest.json": ("features show", "generate", "features find"),
    "run/picks.json": ("pick", "generate picks"),
    "model/config.json": ("cache", "score"),
    "model/tokenizer_config.json": ("score",),
}
"""Files of JSON, and verbs that read them."""

_OTHERS = {
    "generate picks": ("generate", "run", "--picks", "run", "--prompt", "abc"),
    "score": ("score", *GOOD["score"], "--model", "model"),
}


def file_cases() -> Generator[Case]:
    """Files of every kind with wrong content, or something else in their place."""
    for kind, text in _NO_RECIPE.items():
        write = partial(_write, "recipe.yaml", text.encode("utf-8", "surrogatepass"))
        for name in ("train", "eval"):
            words = _without(_good(name), f"--{text.partition(':')[0]}")
            yield Case(f"recipe {kind}: {name}", [*words, "--config", "recipe.yaml"], write)
    for file, names in READERS.items():
        for name in names:
            for kind, content in _NO_JSON.items():
                write = partial(_write, file, content)
                yield Case(f"{file} {kind}: {name}", _good(name), write, file.endswith("twice"))
            for kind, make in _PLACES.items():
                # The first pick makes the file, and a tokenizer can be without its settings.
                is_wrong = (kind, name) != ("missing", "pick") and "tokenizer" not in file
                replace = partial(_replace, file, make)
                yield Case(f"{file} {kind}: {name}", _good(name), replace, is_wrong)
            for kind, value in _JSON_VALUES.items():
                for number in range(_KEYS):
                    change = partial(_change, file, number, value)
                    yield Case(f"{file} {number} {kind}: {name}", _good(name), change, False)
    for file in ("run/sae/sae.safetensors", "run/features/statistics.npy", "run/config.yaml"):
        for kind, make in _PLACES.items():
            yield Case(
                f"{file} {kind}", _good("export" if "sae" in file else "features show"),
                partial(_replace, file, make), "sae" in file,
            )  # fmt: skip


_KEYS = 4
"""Values of a file that are changed; of a file with fewer the same come again."""


def _good(name: str) -> list[str]:
    return [*_OTHERS.get(name, (*name.split(), *GOOD.get(name, ())))]


def _write(file: str, content: bytes) -> None:
    path = Path(file)
    if path.parent.is_symlink():  # the model is shared by the cases
        real = path.parent.resolve()
        path.parent.unlink()
        path.parent.mkdir()
        for item in real.iterdir():
            (path.parent / item.name).symlink_to(item)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _replace(file: str, make: Callable[[Path], None]) -> None:
    _write(file, b"")
    Path(file).unlink()
    make(Path(file))


def _change(file: str, number: int, value: object) -> None:
    """Give one of the values in the JSON file, counted through its objects and lists, another."""
    values = json.loads(Path(file).read_text(encoding="utf-8"))
    checked = values.pop("sha256", None) is not None
    places = [place for place in _places(values) if place[1] != "sha256"]
    holder, key = places[number * max(1, len(places) // _KEYS) % len(places)]
    holder[key] = value
    # With a checksum that is right: else it alone would be told.
    _write(file, json.dumps(with_checksum(values) if checked else values).encode())


def _places(values: Any) -> Generator[tuple[Any, Any]]:
    keys: Iterable[Any] = values if hasattr(values, "keys") else range(len(values))
    for key in keys:
        yield values, key
        if isinstance(values[key], dict | list):
            yield from _places(values[key])


def _unreadable(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


_PLACES: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: None,
    "pipe": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "null device": lambda path: path.symlink_to("/dev/null"),
}
if os.geteuid():  # root reads everything
    _PLACES["unreadable"] = _unreadable


def make_odd_files(folder: Path) -> None:
    """What the paths of `option_cases` name."""
    folder.mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "nothing").symlink_to("missing-target")
    (folder / "empty").write_bytes(b"")
    (folder / "zeros.txt").write_bytes(b"\0" * 5000)
    (folder / "numbers.jsonl").write_text('{"text": 7}\n')
    (folder / "escapes.jsonl").write_text(json.dumps({ESCAPES: "x"}) + "\n")
    (folder / "cut.jsonl").write_text('{"text": "a"}\n{"text": ')
    (folder / "no.parquet").write_bytes(b"PAR1" + b"x" * 50)
    (folder / "unreadable.jsonl").write_text("{}\n")
    (folder / "unreadable.jsonl").chmod(0)
