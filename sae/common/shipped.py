"""The dictionaries that lie inside this package, found by name; nothing here imports torch.

A dictionary is a folder of its name in `sparsteer/sae/dictionaries`, which installs with the
package:

    README.md         the card: data, licenses, settings, figures, limits
    dictionary.json   name, fingerprint, sources and how it was made; checksums of the other files
    evaluation*.json  what `sparsteer eval --json` printed of it
    features.zip      its feature index, packed
    sae/              the autoencoder: config.json and sae.safetensors, in int8
"""

from pathlib import Path

from .errors import InputError

DEFAULT = "smollm2-135m-default"
"""The dictionary of the default language model."""
NAMES = (DEFAULT,)
"""Of all dictionaries that a whole installation has."""

_OF_MODELS = {"smollm2-135m": DEFAULT}

FOLDER = Path(__file__).parents[1] / "dictionaries"
SAE_FOLDER, PACKED_INDEX, CARD, RECORD = "sae", "features.zip", "README.md", "dictionary.json"
"""In the folder of a dictionary."""

MAKE_COMMAND = "python -m benchmarks.make_dictionary"
"""What makes the default dictionary anew, in a clone of the repository."""


def is_shipped(source: str | Path) -> bool:
    """Whether a source is the name of a dictionary, be it in this installation or not. A file or
    folder of that name is `./NAME`, or a `Path`."""
    return isinstance(source, str) and source in NAMES


def dictionary_of(model: str) -> str | None:
    """The name of the dictionary of a language model, by the name it is fetched under; None where
    this installation holds none."""
    name = _OF_MODELS.get(model)
    return name if name is not None and is_here(name) else None


def shipped_folder(name: str) -> Path:
    """The folder of a dictionary in this installation, which is only read.

    Raises:
        InputError: this installation does not hold it.
    """
    folder = FOLDER / name
    if not is_here(name):
        raise InputError(
            f"{name} is the name of a dictionary that comes with sparsteer, but this installation "
            f"does not hold it ({folder} is missing); install a release that has it, make it with "
            f"`{MAKE_COMMAND}` in a clone, or write ./{name} for a folder of your own"
        )
    return folder


def is_here(name: str) -> bool:
    """Whether this installation holds the dictionary."""
    return (FOLDER / name / SAE_FOLDER / "config.json").is_file()
