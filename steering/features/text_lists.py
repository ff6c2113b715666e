"""Lists of texts from files: one on each line, or one in each row."""

from pathlib import Path

from ...sae.errors import InputError
from ...training.documents import file_format, read_texts


def read_text_list(path: str | Path, text_field: str = "text") -> list[str]:
    """The texts of a file; blank ones are passed over.

    A .txt file has a text on each line; a .jsonl, .json or .parquet file has one in a field of each
    row.

    Raises:
        InputError: the file is missing, broken, of another kind, or has no text.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}; check the path")
    if path.suffix.lower() == ".txt":
        texts = _lines(path)
    elif file_format(path) not in (None, ".txt"):
        texts = read_texts(path, (text_field,))
    else:
        raise InputError(f"{path} is no .txt, .jsonl, .json or .parquet file; convert it to one")
    found = [text for text in texts if text.strip()]
    if not found:
        raise InputError(f"{path} has no text; put at least one into it")
    return found


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            f"{path} is not UTF-8 text (byte 0x{byte:02x}); convert it to UTF-8"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the file") from None
    # Not splitlines, which also cuts at form feeds and other marks inside a text.
    return content.split("\n")
