"""Token ids to text without the tokenizer.

The bytes of every token are kept beside the index, so that showing examples loads no model. Tokens
are joined as bytes: a character made of several tokens comes out whole.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A token that stands for one byte, in vocabularies of SentencePiece."""


def load_tokenizer(source: str, progress: Callable[[str], None]) -> "PreTrainedTokenizerBase":
    """The tokenizer of a language model by name, without the model.

    Raises:
        InputError: no model is found under the name, or its tokenizer is damaged.
    """
    from ...sae.language_model import loading, locating

    return loading.load_tokenizer(locating.locate(source, progress))


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids of the tokens that the tokenizer calls special, such as BOS and turn marks."""
    return sorted(tokenizer.all_special_ids)


def token_bytes(tokenizer: "PreTrainedTokenizerBase") -> list[bytes]:
    """The bytes that each token id stands for; an unused id stands for none."""
    is_byte_level = _is_byte_level(tokenizer)
    added = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items()}
    result: list[bytes] = []
    tokens = cast(list[str | None], tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    for id_, token in enumerate(tokens):
        if token is None:
            result.append(b"")
        elif id_ in added:
            result.append(added[id_].encode())
        elif is_byte_level and all(character in _byte_of_character() for character in token):
            result.append(bytes(_byte_of_character()[character] for character in token))
        elif byte := _BYTE_TOKEN.fullmatch(token):
            result.append(bytes.fromhex(byte[1]))
        else:
            result.append(token.replace("\u2581", " ").encode())
    return result


class Vocabulary:
    """The bytes of every token id."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = tokens

    def texts(self, ids: Sequence[int]) -> list[str]:
        """One text for each token; joined they are the whole text.

        A character made of several tokens is given to the first of them, and the others are empty.
        Bytes that are not UTF-8 become lone surrogates, which `visible` writes out.
        """
        known = len(self.tokens)  # a model's vocabulary is often padded beyond the tokenizer's
        parts = [self.tokens[id_] if 0 <= id_ < known else f"<token {id_}>".encode() for id_ in ids]
        owners = [index for index, part in enumerate(parts) for _ in part]
        texts = [""] * len(parts)
        at = 0
        for character in b"".join(parts).decode("utf-8", "surrogateescape"):
            texts[owners[at]] += character
            at += len(character.encode("utf-8", "surrogateescape"))
        return texts


def _is_byte_level(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether characters of a token stand for bytes, as in GPT-2's and most later tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    decoder = cast(dict[str, Any], json.loads(backend.to_str())["decoder"] or {})
    stages = cast(list[dict[str, Any]], decoder.get("decoders", [decoder]))
    return any(stage.get("type") == "ByteLevel" for stage in stages)


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable bytes are themselves, the others follow from U+0100 in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }
