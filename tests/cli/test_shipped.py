"""A dictionary that ships: made whole at a tiny size, and taken by name by every verb."""

import contextlib
import dataclasses
import hashlib
import io
import json
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.facts import held_out_facts
from sparsteer.app.browser.session import Session
from sparsteer.app.publish.dictionary import DictionaryParts, write_dictionary
from sparsteer.cli.main import main
from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.common import shipped
from sparsteer.sae.common.checksums import recorded_files, write_checked_json
from sparsteer.sae.common.files import read_json
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.steering.features import FeatureIndex, Picks
from sparsteer.steering.features.packing import pack_index
from sparsteer.steering.features.pick_store import PickStore
from sparsteer.steering.features.run_folder import run_folder as folder_of

from .conftest import SITES, Sparsteer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAME = shipped.DEFAULT


@dataclasses.dataclass
class Made:
    """A dictionary in a folder of dictionaries, and what it was made with."""

    maker: Any
    settings: Any
    work: Path
    out: Path
    executed: list[tuple[str, ...]] = dataclasses.field(default_factory=list[tuple[str, ...]])
    said: list[str] = dataclasses.field(default_factory=list[str])

    def again(self, **changes: Any) -> dict[str, int]:
        """Make it, or go on; what ran is in `executed`."""
        self.executed.clear()
        return self.make(dataclasses.replace(self.settings, **changes))

    def make(self, settings: Any, **given: Path) -> dict[str, int]:
        """Make it of these settings, and of parts that are there."""
        say = self.said.append
        return self.maker.make(
            settings, self.work, self.out, execute=self._execute, say=say, **given
        )

    def _execute(self, words: Sequence[str], output: Path | None) -> None:
        self.executed.append(tuple(words))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main([*words, *(["--json"] if output else [])]) == 0
        if output:
            output.write_text(printed.getvalue())

    def digest(self) -> str:
        """Of every file of the dictionary."""
        files = sorted(path for path in self.out.rglob("*") if path.is_file())
        return hashlib.sha256(
            b"".join(str(file).encode() + file.read_bytes() for file in files)
        ).hexdigest()


@pytest.fixture(scope="module")
def made(
    tiny_model_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    """The whole chain on two texts, evaluated on a third as well."""
    folder = tmp_path_factory.mktemp("shipped")
    others = [folder / "other.jsonl", folder / "unseen.jsonl"]
    lines = corpus.read_text().splitlines()
    for place, path in enumerate(others):
        texts = [json.loads(line)["text"][::-1] for line in lines[place::2]]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        patch.setenv("SPARSTEER_CACHE", str(folder / "user"))
        patch.setattr(shipped, "FOLDER", folder / "dictionaries")
        patch.syspath_prepend(str(ROOT))  # pyright: ignore[reportUnknownMemberType] - untyped
        maker: Any = import_module("benchmarks.make_dictionary")
        settings = maker.DictionarySettings(
            name=NAME,
            license="apache-2.0",
            cache={
                "model": str(tiny_model_folder),
                "site": SITES[1],
                "dataset": [f"{corpus}:3", f"{others[0]}:1"],
                "tokens": 2000,
                "context_length": 32,
                "shard_rows": 512,
                "held_out_fraction": 0.2,
                "model_dtype": "float32",
            },
            train={"activation": "batch_topk", "n_latents": 48, "k": 4, "tokens": 2000}
            | {"batch_size": 50},
            evaluations={
                "held-out text": {"contexts": 4},
                "unseen text": {
                    "cache": {"dataset": str(others[1]), "tokens": 600},
                    "contexts": 4,
                },
                "the suite": {"suite": True, "parts": ["held_out", "classes"], "contexts": 2},
            },
            index={"examples": 4, "quantile_examples": 1, "near_misses": 2, "before": 6}
            | {"after": 3, "neighbors": 3, "coactivating": 3, "logits": 3},
            most_megabytes=1,
            limits=["It is tiny."],
            licenses={"text.jsonl": "CC0", "other.jsonl": "CC BY-SA 4.0"},
        )
        one = Made(maker, settings, folder / "work", folder / "dictionaries" / NAME)
        one.again()
        yield one


def busiest() -> int:
    return int(FeatureIndex.of_run(NAME).statistics["fired"].argmax())


def test_every_step_ran_once_and_its_figures_are_on_the_card(made: Made) -> None:
    verbs = [words[:2] if words[0] == "features" else words[:1] for words in made.executed]
    wanted = [("cache",), ("train",), ("export",), ("eval",), ("cache",), ("eval",), ("eval",)]
    assert verbs == [*wanted, ("features", "build")]
    record = read_json(made.out / "dictionary.json", "record")
    assert record["sae"] == sae_fingerprint(SparseAutoencoder.load(NAME))
    assert SparseAutoencoder.load(NAME).config.activation == "jumprelu"
    assert [source["name"] for source in record["sources"]] == ["text.jsonl", "other.jsonl"]
    rows = [source["rows"] for source in record["sources"]]
    assert sum(rows) == 2000 and rows[0] > rows[1] > 0
    card = (made.out / "README.md").read_text()
    for file in record["evaluations"].values():
        found = read_json(made.out / file, "evaluation")
        if file == "evaluation-the-suite.json":
            names = [one["name"] for one in found["autoencoders"]]
            assert names == [NAME, "pca L0 4", "random L0 4", "raw"]
            for name in names:
                assert f"| {name} | " in card
            continue
        assert found["fingerprint"] == record["sae"]
        assert f"| {found['fvu']:.4f}" in card
        assert f"{found['language_model']['loss_with_sae']:.6g} |" in card
    for words in ("text.jsonl", "CC BY-SA 4.0", "`apache-2.0`", "It is tiny.", "### unseen text"):
        assert words in card
    assert "sparsteer train --activation batch_topk --n-latents 48 --k 4" in card
    assert str(made.work) not in card


def test_all_of_it_is_installed_with_the_package(made: Made) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["sparsteer.sae"]
    package = made.out.parents[1]
    files = {path for path in made.out.rglob("*") if path.is_file()}
    installed = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    assert files and files == installed
    assert shipped.MAKE_COMMAND.split()[-1] == made.maker.__name__


def test_made_again_only_the_folder_is_written(made: Made) -> None:
    before = made.digest()
    made.again()
    assert {words[0] for words in made.executed} == {"cache", "train", "export"}
    assert made.digest() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"most_megabytes": 0.01}, r"the dictionary has .* more than 10\.0 kB; keep fewer"),
        ({"licenses": {"text.jsonl": "CC0"}}, "the text other.jsonl has no stated license"),
    ],
)
def test_what_may_not_ship_is_refused(made: Made, changes: dict[str, Any], said: str) -> None:
    before = made.digest()
    with pytest.raises(InputError, match=said):
        made.again(**changes)
    assert made.digest() == before


def test_figures_of_another_autoencoder_are_refused(made: Made, tmp_path: Path) -> None:
    found = read_json(made.work / "evaluation-held-out-text.json", "evaluation")
    other = tmp_path / "evaluation.json"
    other.write_text(json.dumps({**found, "fingerprint": "0" * 64}))
    parts = DictionaryParts(
        name=NAME,
        run=made.work / "run",
        compact=made.work / "compact",
        cache=made.work / "cache",
        evaluations={"other": other},
        license="mit",
        licenses=made.settings.licenses,
    )
    with pytest.raises(InputError, match="is of another autoencoder than"):
        write_dictionary(parts, tmp_path / "out", most_bytes=10**6)


@pytest.mark.parametrize(
    ("part", "options", "said"),
    [
        (
            "cache",
            {"dataset": "elsewhere.jsonl"},
            "was made with dataset .*, but the settings have",
        ),
        ("cache", {"context_length": 16}, "was made with context_length 32, but the settings have"),
        ("cache", {"site": "blocks.2.hook_resid_post"}, "has no site blocks.2.hook_resid_post"),
        ("cache", {"tokens": 9000}, "has 2,000 rows, fewer than the 9,000 of the settings"),
        ("train", {"k": 5}, "was made with k 4, but the settings have 5 under train"),
        ("train", {"tokens": 2001}, "was made with tokens 2000, but the settings have 2001"),
    ],
)
def test_what_is_there_must_be_of_the_settings(
    made: Made, part: str, options: dict[str, Any], said: str
) -> None:
    given = {**getattr(made.settings, part), **options}
    settings = dataclasses.replace(made.settings, **{part: given})
    name = "cache" if part == "cache" else "run"
    with pytest.raises(InputError, match=said):
        made.make(settings, **{name: made.work / name})


def test_a_cache_and_a_run_that_are_there_are_taken(made: Made) -> None:
    before = made.digest()
    made.executed.clear()
    made.make(made.settings, cache=made.work / "cache", run=made.work / "run")
    assert [words[0] for words in made.executed] == ["export", "cache"]
    assert made.digest() == before


def test_every_verb_takes_the_name(
    made: Made, sparsteer: Sparsteer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, number = made.digest(), busiest()
    shown = sparsteer("features", "show", NAME, number)
    assert shown.status == 0 and "text.jsonl doc" in shown.out
    values = sparsteer("features", "show", NAME, number, "--json").values
    assert values["sources"] == ["text.jsonl", "other.jsonl"] and len(values["top"]) == 4
    assert sparsteer("features", "list", NAME).status == 0
    assert sparsteer("features", "search", NAME, "--text", "abc def").status == 0
    for name in ("positive", "negative"):
        (tmp_path / f"{name}.txt").write_text(
            "abc def\nghi\n" if name == "positive" else "jjj\na\n"
        )
    sides = ("--positive", "positive.txt", "--negative", "negative.txt")
    assert sparsteer("features", "find", NAME, *sides).status == 0
    assert sparsteer("pick", NAME, "add", number, "--label", "mine", "--json").status == 0
    prompt = ("--prompt", "abc", "--max-new-tokens", 2, "--json")
    steered = sparsteer("generate", NAME, "--picks", NAME, *prompt)
    assert steered.status == 0
    assert steered.values["intervention"]["features"][0]["index"] == number
    pool, target = tmp_path / "pool.jsonl", tmp_path / "target.jsonl"
    for path in (pool, target):
        rows = [{"instruction": text, "output": "abc"} for text in ("abc def", "ghi", "jj aa bb")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (pool, "--target", target, "--run", NAME, "--out", tmp_path / "scored.jsonl")
    assert sparsteer("score", *words).status == 0
    assert sparsteer("eval", NAME, "--cache", made.work / "cache", "--contexts", 0).status == 0
    assert sparsteer("verify", NAME).status == 0
    copy = tmp_path / "copy"
    exported = sparsteer("export", NAME, "--format", "sparsteer", "--out", copy)
    assert exported.status == 0
    by_name, by_path = SparseAutoencoder.load(NAME), SparseAutoencoder.load(copy)
    assert sae_fingerprint(by_name) == sae_fingerprint(by_path)
    with PickStore(NAME) as store:
        assert [pick.label for pick in store.picks().picks] == ["mine"]
        assert Picks.load(NAME, sae=store.sae) == store.picks()
    assert made.digest() == before
    assert folder_of(NAME).parent.name == "dictionaries"
    assert Session(ServeConfig(run=NAME, device="cpu"), print).run == folder_of(NAME)
    assert (folder_of(NAME) / "picks.json").is_file()
    assert not (tmp_path / NAME).exists()
    facts = {fact.name: fact.value for fact in held_out_facts(folder_of(NAME))}
    first = next(iter(read_json(made.out / "dictionary.json", "record")["evaluations"].values()))
    assert facts["FVU"].startswith(f"{read_json(made.out / first, 'evaluation')['fvu']:.4f}")


def test_what_would_write_into_it_is_refused(
    made: Made, sparsteer: Sparsteer, tmp_path: Path
) -> None:
    plots = sparsteer("eval", NAME, "--cache", made.work / "cache", "--plots")
    assert plots.status == 2 and f"{NAME} comes with sparsteer" in plots.error
    published = sparsteer("publish", NAME, "--repo", "me/mine")
    assert published.status == 2 and "is published with it" in published.error


def test_doctor_and_an_unknown_name_list_it(made: Made, sparsteer: Sparsteer) -> None:
    assert sparsteer("doctor", "--json").values["dictionaries"] == {NAME: True}
    unknown = sparsteer("features", "list", "smollm2-135m-defaults")
    assert unknown.status == 2 and f"did you mean {NAME}?" in unknown.error


def test_damage_of_the_package_is_told(
    made: Made, sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPARSTEER_CACHE", str(tmp_path / "empty"))
    packed = made.out / "features.zip"
    content = packed.read_bytes()
    try:
        packed.write_bytes(content[: len(content) // 2])
        done = sparsteer("features", "list", NAME)
        assert done.status == 2 and "install sparsteer again" in done.error
        assert sparsteer("verify", NAME).status == 1
    finally:
        packed.write_bytes(content)
    assert sparsteer("features", "list", NAME).status == 0


def test_another_index_of_the_same_autoencoder_is_unpacked_and_picks_stay(
    made: Made, sparsteer: Sparsteer
) -> None:
    number = busiest()
    assert sparsteer("pick", NAME, "add", number, "--note", "kept").status == 0
    run, packed, record = folder_of(NAME), made.out / "features.zip", made.out / "dictionary.json"
    contents = {file: file.read_bytes() for file in (packed, record)}
    values = json.loads(record.read_text())
    try:
        pack_index(made.work / "compact" / "features", packed, sources=["another"])
        files = {**values["files"], **recorded_files(made.out, ["features.zip"])}
        del values["sha256"]
        write_checked_json(record, {**values, "files": files})
        assert FeatureIndex.of_run(NAME).manifest["sources"] == ["another"]
        assert folder_of(NAME) == run
        with PickStore(NAME) as store:
            assert store.picks().picks[0].note == "kept"
    finally:
        for file, content in contents.items():
            file.write_bytes(content)
    assert FeatureIndex.of_run(NAME).manifest["sources"] == ["text.jsonl", "other.jsonl"]
    assert sparsteer("verify", run).status == 0


def test_its_page_is_written_from_it(made: Made, tmp_path: Path) -> None:
    describe: Any = import_module("benchmarks.describe_dictionary")
    figures, features = describe.write_results(NAME, tmp_path / "results")
    assert "| in all |" in figures.read_text() and "On unseen text, " in figures.read_text()
    text = features.read_text()
    assert 0 < text.count("### Feature ") <= 20 and "⟦" in text
