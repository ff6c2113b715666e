"""Corpora: what a name leads to, the order of documents, fingerprints, and wrong names."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common.errors import InputError
from sparsteer.training.data import corpus as corpus_module
from sparsteer.training.data.corpus import Corpus, Document, open_corpus
from sparsteer.training.data.prompt_sides import side_of
from sparsteer.training.data.row_files.formats import library


def write_jsonl(path: Path, texts: Iterable[str], field: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


def read(corpus: Corpus, seed: int = 0, shuffle_buffer: int = 100) -> list[Document]:
    return list(corpus.documents(seed=seed, shuffle_buffer=shuffle_buffer))


def corpus_of(parts: list[list[str]]) -> Corpus:
    names = tuple(map(str, range(len(parts))))
    return Corpus("x", "y", None, names, lambda part: iter(parts[part]))


@given(
    st.lists(st.lists(st.text(max_size=5), max_size=9), min_size=1, max_size=20),
    st.integers(0, 2**70),
    st.integers(1, 50),
)
def test_every_document_once_with_its_number(
    parts: list[list[str]], seed: int, shuffle_buffer: int
) -> None:
    corpus = corpus_of(parts)
    found = read(corpus, seed, shuffle_buffer)
    assert len(found) == sum(map(len, parts))
    assert len({document.number for document in found}) == len(found)
    for number, text in found:
        row, part = divmod(number, len(parts))
        assert parts[part][row] == text
    assert read(corpus, seed, shuffle_buffer) == found


def test_another_seed_gives_another_order() -> None:
    corpus = corpus_of([[str(i) for i in range(30)] for _ in range(3)])
    orders = {tuple(read(corpus, seed)) for seed in range(5)}
    assert len(orders) == 5


def test_a_buffer_of_one_keeps_the_order_of_a_file() -> None:
    texts = [str(i) for i in range(30)]
    found = read(corpus_of([texts]), shuffle_buffer=1)
    assert found == [Document(i, text) for i, text in enumerate(texts)]


def test_files_are_read_in_turn_not_one_after_the_other() -> None:
    corpus = corpus_of([["a"] * 100, ["b"] * 100, ["c"] * 100])
    head = read(corpus, shuffle_buffer=1)[:30]
    assert [sum(d.text == text for d in head) for text in "abc"] == [10, 10, 10]


def test_few_files_are_open_at_a_time() -> None:
    opened: list[int] = []

    def read_part(part: int) -> Iterator[str]:
        opened.append(part)
        yield from ["a", "b", "c"]

    corpus = Corpus("x", "y", None, tuple("abcdefghijkl"), read_part)
    documents = corpus.documents(seed=0, shuffle_buffer=1)
    for _ in range(2 * corpus_module.OPEN_PARTS):
        next(documents)
    assert len(opened) == corpus_module.OPEN_PARTS
    assert len(list(documents)) == 12 * 3 - 2 * corpus_module.OPEN_PARTS


def test_which_files_come_first_depends_on_the_seed() -> None:
    corpus = corpus_of([[str(part)] * 50 for part in range(40)])
    first = {
        frozenset(text for _, text in read(corpus, seed, shuffle_buffer=2)[:20])
        for seed in range(5)
    }
    assert len(first) == 5
    in_order = [text for _, text in read(corpus, shuffle_buffer=1)[:8]]
    assert in_order == [str(part) for part in range(8)]


def test_the_buffer_is_bounded_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "BUFFER_CHARACTERS", 50)
    n_read = 0

    def texts() -> Iterable[str]:
        nonlocal n_read
        for _ in range(100):
            n_read += 1
            yield "x" * 20

    corpus = Corpus("x", "y", None, ("a",), lambda part: iter(texts()))
    next(corpus.documents(seed=0, shuffle_buffer=1000))
    assert n_read == 3


def test_file_folder_and_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "data" / "b.jsonl", ["b0", "b1"])
    write_jsonl(tmp_path / "data" / "deep" / "a.jsonl", ["a0"])
    write_jsonl(tmp_path / "data" / ".hidden" / "c.jsonl", ["c0"])
    (tmp_path / "data" / "note.md").write_text("no text of the corpus")
    monkeypatch.chdir(tmp_path)

    folder = open_corpus("data")
    assert folder.parts == ("b.jsonl", "deep/a.jsonl")
    assert sorted(read(folder)) == [(0, "b0"), (1, "a0"), (2, "b1")]

    pattern = open_corpus("data/**/*.jsonl")
    assert sorted(d.text for d in read(pattern)) == ["a0", "b0", "b1"]

    file = open_corpus("data/b.jsonl")
    assert sorted(read(file)) == [(0, "b0"), (1, "b1")]
    content = (tmp_path / "data" / "b.jsonl").read_bytes()
    assert file.fingerprint == hashlib.sha256(content).hexdigest()


def test_fingerprint_follows_the_content_of_every_file(tmp_path: Path) -> None:
    prints: set[str] = set()
    for name, other in [("a", "x"), ("a", "y"), ("b", "x")]:
        write_jsonl(tmp_path / "1.jsonl", [name])
        write_jsonl(tmp_path / "2.jsonl", [other])
        prints.add(open_corpus(str(tmp_path)).fingerprint)
    assert len(prints) == 3
    write_jsonl(tmp_path / "1.jsonl", ["a"])
    assert open_corpus(str(tmp_path)).fingerprint in prints


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("news", {"text": "t", "prompt": "p"}, "t"),
        ("instructions", {"instruction": "i", "input": "n", "output": "o"}, "i\n\no"),
    ],
)
def test_fetched_names_have_their_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, row: dict[str, str], text: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))

    def fetch(asked: str, *, progress: Callable[[str], None]) -> Path:
        assert asked == name
        return tmp_path / "rows.jsonl"

    monkeypatch.setattr(corpus_module, "fetch", fetch)
    assert read(open_corpus(name)) == [(0, text)]
    other = next(iter(row))
    assert read(open_corpus(name, text_field=other)) == [(0, row[other])]


def test_toxicity_prompts_of_the_reporting_side_are_no_text_to_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"the prompt {chr(97 + i)} goes on" for i in range(26)]
    path = write_jsonl(tmp_path / "rows.jsonl", prompts, field="prompt")

    def fetch(asked: str, *, progress: Callable[[str], None]) -> Path:
        return path

    monkeypatch.setattr(corpus_module, "fetch", fetch)
    found = sorted(read(open_corpus("rtp-prompts")))
    assert found == [
        (row, text if side_of(text) == "tuning" else "") for row, text in enumerate(prompts)
    ]
    assert 5 < sum(text == "" for _, text in found) < 21
    assert open_corpus("rtp-prompts").fingerprint != open_corpus(str(path)).fingerprint
    with pytest.raises(InputError, match="leave --text-field out"):
        open_corpus("rtp-prompts", text_field="attribute")


def test_the_fetched_names_are_artifacts() -> None:
    from sparsteer.sae.fetching.fetch import ARTIFACTS

    assert set(corpus_module.FETCHED_FIELDS) <= set(ARTIFACTS)


class FakeHub:
    """A hub with one data set of three shards, in place of the real one."""

    texts = tuple(f"text {i}" for i in range(10))

    def dataset_info(self, name: str, revision: str | None) -> Any:
        if name != "owner/texts":
            raise ConnectionError(f"404 for {name}\nmore lines")
        return SimpleNamespace(sha=f"commit-{revision or 'main'}")

    def load_dataset(self, name: str, subset: str | None, *, split: str, **options: Any) -> Any:
        assert name == "owner/texts"
        assert options == {"streaming": True, "revision": "commit-main"}
        if split != "train":
            raise ValueError(f'Bad split: {split}. Available splits: ["train"]')
        rows = {"body": list(self.texts), "n": list(range(10))}
        return library("datasets").Dataset.from_dict(rows).to_iterable_dataset(num_shards=3)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    monkeypatch.setattr("datasets.load_dataset", fake.load_dataset)
    return fake


def test_hub_data_set(hub: FakeHub) -> None:
    corpus = open_corpus("owner/texts", text_field="body")
    assert (corpus.fingerprint, corpus.revision) == ("owner/texts@commit-main", "commit-main")
    assert len(corpus.parts) == 3
    found = read(corpus)
    assert sorted(d.text for d in found) == sorted(hub.texts)
    assert len({d.number for d in found}) == 10
    assert read(corpus) == found


def test_hub_revision(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    asked: list[str] = []

    def load_dataset(name: str, subset: str | None, **options: Any) -> Any:
        asked.append(options["revision"])
        return library("datasets").Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    open_corpus("owner/texts@v2")
    open_corpus("owner/texts@v2", revision="abc")
    assert asked == ["commit-v2", "commit-abc"]


def test_hub_errors(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"split 'tset'.*Available splits.*--split"):
        open_corpus("owner/texts", split="tset")
    with pytest.raises(
        InputError, match=r"owner/texts has none of the fields .*--text-field: body"
    ):
        open_corpus("owner/texts")
    with pytest.raises(InputError, match=r"row 1: there is no field 'bodies'; .*body, n; .*--skip"):
        read(open_corpus("owner/texts", text_field="bodies"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"newz is neither .* \(404 for newz\); did you mean news"):
        open_corpus("newz")
    (tmp_path / "texts.txt").write_text("x")
    with pytest.raises(InputError, match=r"did you mean texts\.txt"):
        open_corpus("textss")


def test_wrong_local_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "reviews.jsonl", ["a"])
    (tmp_path / "table.xlsx").write_text("text\na\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"reviws\.jsonl is not there; did you mean reviews\.jsonl"
    ):
        open_corpus("reviws.jsonl")
    with pytest.raises(InputError, match=r"/nowhere/a\.txt is not there; there is no folder"):
        open_corpus(str(tmp_path / "nowhere" / "a.txt"))
    with pytest.raises(InputError, match=r"\*\.parquet is not there"):
        open_corpus("*.parquet")
    with pytest.raises(InputError, match=r"table\.xlsx is not a file ending in \.jsonl"):
        open_corpus("table.xlsx")
    with pytest.raises(InputError, match=r"the folder empty has no file to read"):
        open_corpus("empty")
    with pytest.raises(InputError, match=r"is local, and only a hub data set has subsets"):
        open_corpus("reviews.jsonl", split="test")


def test_a_folder_as_people_have_it(tmp_path: Path) -> None:
    """What is about the data is not read, nor are other splits, which is said."""
    write_jsonl(tmp_path / "data" / "train-0.jsonl", ["a"])
    write_jsonl(tmp_path / "more.jsonl", ["b"])
    write_jsonl(tmp_path / "data" / "test-0.jsonl", ["tested"])
    write_jsonl(tmp_path / "validation" / "0.jsonl", ["validated"])
    for name in ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"):
        (tmp_path / name).write_text('{"default": {"features": {}}}')
    for name in ("README.txt", "LICENSE.txt", "License-cc.txt"):
        (tmp_path / name).write_text("about the data")
    said: list[str] = []
    corpus = open_corpus(str(tmp_path), progress=said.append)
    assert sorted(document.text for document in read(corpus)) == ["a", "b"]
    assert corpus.parts == ("data/train-0.jsonl", "more.jsonl")
    (sentence,) = said
    assert "2 of 4 files" in sentence and "data/test-0.jsonl, validation/0.jsonl" in sentence
    tested = open_corpus(str(tmp_path), split="test")
    assert [document.text for document in read(tested)] == ["tested"]
    (tmp_path / "validation" / "0.jsonl").unlink()
    with pytest.raises(InputError, match=r"no file of the split 'validation' \(it has test, train"):
        open_corpus(str(tmp_path), split="validation")


def test_saved_data_sets_are_folders(tmp_path: Path) -> None:
    datasets = library("datasets")
    datasets.disable_progress_bars()
    sides = {
        side: datasets.Dataset.from_dict({"text": [f"{side} {n}" for n in range(3)]})
        for side in ("train", "test")
    }
    sides["train"].save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(sides).save_to_disk(str(tmp_path / "several"))
    wanted = ["train 0", "train 1", "train 2"]
    assert [d.text for d in read(open_corpus(str(tmp_path / "one")), shuffle_buffer=1)] == wanted
    several = str(tmp_path / "several")
    assert [d.text for d in read(open_corpus(several), shuffle_buffer=1)] == wanted
    tested = open_corpus(several, split="test")
    assert sorted(d.text for d in read(tested)) == ["test 0", "test 1", "test 2"]


def test_a_parquet_shard_without_rows_is_whole(tmp_path: Path) -> None:
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    for number, texts in enumerate([[], ["a", "b"], []]):
        table = arrow.table({"text": arrow.array(texts, arrow.string())})
        parquet.write_table(table, tmp_path / f"{number}.parquet")
    assert sorted(d.text for d in read(open_corpus(str(tmp_path)))) == ["a", "b"]


def test_a_layout_is_detected_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"Hi {n}"}]} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    said: list[str] = []
    corpus = open_corpus(str(path), progress=said.append)
    assert [document.text for document in read(corpus, shuffle_buffer=1)] == [
        "Hi 0",
        "Hi 1",
        "Hi 2",
    ]
    assert said == ["the text of a row is messages (layout messages, detected)"]
    path.write_text('{"body": "x", "id": "y"}\n')
    with pytest.raises(InputError, match=r"none of the fields .*--text-field: body, id"):
        open_corpus(str(path))
    inner = open_corpus(str(write_jsonl(tmp_path / "b.jsonl", ["x"], "a.b")), text_field="a.b")
    assert [document.text for document in read(inner)] == ["x"]
