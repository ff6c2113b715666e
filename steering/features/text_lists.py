"""Lists of texts from files: one on each line, or one in each row."""

from pathlib import Path

from ...sae.common.errors import InputError
from ...training.data.documents import read_rows_of
from ...training.data.row_files.opening import open_rows
from ...training.data.row_files.row_text import fields_of_texts


def read_text_list(
    path: str | Path, text_field: str | None = None, *, what: str = "", prompts: bool = False
) -> list[str]:
    """The texts of a file, folder or pattern; blank ones are passed over.

    A text file has a text on each line, every other one in its rows.

    Args:
        path: what to read.
        text_field: fields of the text joined by `+`; by default `text`, or those of the layout
            that the rows have.
        what: the option that named the path, for an error.
        prompts: the texts are prompts: the field `prompt` comes first, and answers are left out.

    Raises:
        InputError: the file is missing, broken, of another kind, or has no text.
    """
    rows = open_rows(path, what)
    fields = fields_of_texts(
        rows.files, text_field, str(path), prefer="prompt" if prompts else "text", prompts=prompts
    )
    texts = read_rows_of(rows, fields, remedy="mend the row")
    found = [text for text in texts if text.strip()]
    if not found:
        raise InputError(f"{path} has no text; put at least one into it")
    return found
