"""Rows of a chat in the language model's chat template: turns, tokens, rows, refusals."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training.data.chat_template import in_chat_template
from sparsteer.training.data.content_tokens import content_rows
from sparsteer.training.data.contexts import DocumentSource
from sparsteer.training.data.corpus import open_corpus
from sparsteer.training.data.packing import pack
from sparsteer.training.data.row_files.chat_rows import chat_turns
from sparsteer.training.data.row_files.row_text import TextFields
from sparsteer.training.data.stream.chunks import ChunkSource
from sparsteer.training.data.stream.config import StreamConfig
from sparsteer.training.distributed.collectives import Distributed

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no ' + m.role) }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
)
USER, MODEL = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}
LONG = {"role": "user", "content": "tell me more"}


@pytest.fixture
def chatty(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    monkeypatch.setattr(cast(Any, tiny_model.tokenizer), "chat_template", TEMPLATE)
    return tiny_model


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def documents(model: LanguageModel, dataset: str, **options: Any) -> DocumentSource:
    corpus = open_corpus(dataset, chat=True, **options)
    return DocumentSource(
        corpus, model, seed=0, shuffle_buffer=1, held_out_below=0, dist=Distributed()
    )


@pytest.mark.parametrize(
    ("fields", "row", "wanted"),
    [
        (("messages",), {"messages": [USER, MODEL, LONG]}, (USER, MODEL, LONG)),
        (
            ("conversations",),
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes?"}]},
            (USER, MODEL),
        ),
        (
            ("instruction", "input", "output"),
            {"instruction": "add", "input": "1 2", "output": 3},
            ({"role": "user", "content": "add\n\n1 2"}, {"role": "assistant", "content": "3"}),
        ),
        (("prompt", "response"), {"prompt": "hi", "response": ""}, (USER,)),
        (("prompt", "chosen"), {"prompt": "hi", "chosen": "hi yes?"}, (USER, MODEL)),
        (("prompt", "chosen"), {"prompt": "hi", "chosen": [USER, MODEL]}, (USER, MODEL)),
        (("data.messages",), {"data": {"messages": [USER]}}, (USER,)),
        (
            ("messages",),
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
            (USER,),
        ),
        (("messages",), {"messages": [{"content": "hi"}]}, "message 1 of the field 'messages' has"),
        (("messages",), {"messages": ["hi"]}, "message 1 of the field 'messages' has no role"),
    ],
)
def test_turns_of_a_row(fields: tuple[str, ...], row: dict[str, Any], wanted: Any) -> None:
    found = chat_turns(TextFields("given", fields), row)
    if isinstance(wanted, str):
        assert isinstance(found, str) and found.startswith(wanted)
    else:
        assert found == wanted


def test_several_turns_are_in_the_template_and_control_marks_get_no_row(
    chatty: LanguageModel, tmp_path: Path
) -> None:
    dataset = write(tmp_path / "chats.jsonl", {"messages": [USER, MODEL, LONG]})
    (document,) = documents(chatty, dataset)
    text = "[user]hi<|eos|>[assistant]yes?<|eos|>[user]tell me more<|eos|>"
    assert document.ids == chatty.tokenize(text)  # its one BOS is each context's own
    contexts = pack([document], context_length=128, bos_id=chatty.bos_id, eos_id=chatty.eos_id)
    (chosen,) = content_rows(contexts, chatty, context_length=128, at_once=4)
    special = {chatty.bos_id, chatty.eos_id}
    marks = [int(token) in special for token in chosen.context.tokens]
    assert sum(marks) == 5  # BOS, three ends of turns, the end of the document
    assert not any(row and mark for row, mark in zip(chosen.rows, marks, strict=True))
    assert int(chosen.rows.sum()) == len(marks) - 5 - 1  # and but the first token


def test_a_bos_that_begins_every_turn_stays(
    chatty: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    monkeypatch.setattr(cast(Any, chatty.tokenizer), "chat_template", turns)
    assert in_chat_template(chatty, (USER, MODEL)) == "<|bos|>user: hi\n<|bos|>assistant: yes?\n"
    assert in_chat_template(chatty, (USER,)) == "user: hi\n"


def test_without_the_option_nothing_changes(chatty: LanguageModel, tmp_path: Path) -> None:
    dataset = write(tmp_path / "chats.jsonl", {"messages": [USER, MODEL]})
    plain, chat = open_corpus(dataset), open_corpus(dataset, chat=True)
    assert plain.fingerprint == chat.fingerprint
    (a,), (b,) = (list(c.documents(seed=0, shuffle_buffer=1)) for c in (plain, chat))
    assert a == b == (0, "hi\n\nyes?")  # which decides on which side it is held


def test_a_stream_reads_the_same(chatty: LanguageModel, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"number {n}"}, MODEL]} for n in range(6)]
    dataset = write(tmp_path / "chats.jsonl", *rows)
    wanted = {token for document in documents(chatty, dataset) for token in document.ids}
    config = StreamConfig(
        model="tiny", dataset=dataset, chat=True, context_length=64, held_out_fraction=0.0
    )
    source = ChunkSource(config, open_corpus(dataset, chat=True), chatty)
    chunk = next(source.from_row(0, rows=400, seed=0, path=tmp_path / "chunks.jsonl"))
    found = {int(token) for one in chunk.contexts for token in one.context.tokens}
    assert wanted <= found


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "hi"}], "chat is on, but FILE has plain text and no turns; leave it out"),
        ([{"messages": [{"content": "hi"}]}], "message 1 of the field 'messages' has no role or"),
        ([{"messages": [{"role": "tool", "content": "hi"}]}], "refuses a row with the turns tool"),
    ],
)
def test_what_has_no_turns_is_refused(
    chatty: LanguageModel, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    dataset = write(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(InputError, match=re.escape(message.replace("FILE", dataset))):
        list(documents(chatty, dataset))


def test_a_row_without_roles_is_passed_over_where_that_is_asked_for(
    chatty: LanguageModel, tmp_path: Path
) -> None:
    dataset = write(
        tmp_path / "rows.jsonl", {"messages": [{"content": "hi"}]}, {"messages": [USER]}
    )
    source = documents(chatty, dataset, skip_bad_rows=True)
    assert len(list(source)) == 1 and source.bad_rows == 1
    assert "has no role" in source.notices()[0]


def test_a_model_without_a_template_is_refused(tiny_model: LanguageModel, tmp_path: Path) -> None:
    dataset = write(tmp_path / "chats.jsonl", {"messages": [USER]})
    with pytest.raises(InputError, match="has no chat template; leave it out to read the turns"):
        list(documents(tiny_model, dataset))
