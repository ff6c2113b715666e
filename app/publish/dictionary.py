"""Write a dictionary that ships with the package: weights, packed index, figures, card."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.checksums import recorded_files, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder, read_json, write_json
from ...sae.common.shipped import CARD, MAKE_COMMAND, PACKED_INDEX, RECORD, SAE_FOLDER
from ...sae.common.wording import size
from ...sae.fingerprint import sae_fingerprint
from ...steering.features.index import FeatureIndex
from ...steering.features.layout import FOLDER
from ...steering.features.packing import pack_index
from ...training.data.cache.reader import ActivationCache
from ...training.evaluation.code_agreement import CodeAgreement, code_agreement
from .config import PublishConfig
from .dictionary_card import DictionaryFacts, dictionary_card
from .source import read_run, without_paths
from .text_sources import text_sources, weights_of

FORMAT = "sparsteer-dictionary"
_OWNER = "sparsteer"
_COMPARED_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class DictionaryParts:
    """What a dictionary is put together from."""

    name: str
    run: Path
    """The run that trained it."""
    compact: Path
    """A run folder with the autoencoder as it is stored, as `sae/`, and its feature index."""
    cache: Path
    """The activation cache that it was trained on and that the index is of."""
    evaluations: Mapping[str, Path]
    """Files that `sparsteer eval --json` printed into, of the compact autoencoder, by what they
    were measured on."""
    license: str
    """Of the autoencoder, as the hub calls it."""
    limits: Sequence[str] = ()
    """Sentences for the card."""
    licenses: Mapping[str, str]
    """Of texts that are not fetched by name, by the names of their files."""
    commands: Sequence[str] = ()
    """That made it, in their order, for the card."""
    make: str = MAKE_COMMAND
    """The one command that runs them."""


def write_dictionary(
    parts: DictionaryParts,
    out: Path,
    *,
    most_bytes: int,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, int]:
    """Write the folder of a dictionary, which appears whole and replaces an older one.

    Args:
        parts: what it is made of.
        out: the folder; see `sparsteer.sae.common.shipped` for what lies in it.
        most_bytes: of all its files together.
        say: told what takes time.

    Returns:
        Bytes of each file, by its path in the folder.

    Raises:
        InputError: index or figures are of another autoencoder, a text has no stated license, or
            the folder would be larger than `most_bytes`.
    """
    compact = SparseAutoencoder.load(str(parts.compact.absolute()))
    fingerprint = sae_fingerprint(compact)
    cache = ActivationCache(parts.cache)
    sources = text_sources(cache, parts.licenses)
    evaluations = {
        title: _evaluation(path, fingerprint, parts) for title, path in parts.evaluations.items()
    }
    index = FeatureIndex(parts.compact.absolute(), sae=fingerprint)
    published = read_run(
        PublishConfig(
            run=str(parts.run), repo=f"{_OWNER}/{parts.name}", license=parts.license, index=False
        )
    )
    say(f"comparing codes on {_COMPARED_ROWS:,} held-out rows")
    agreement = _agreement(published.sae, compact, cache)
    facts = DictionaryFacts(
        name=parts.name,
        published=replace(published, sae=compact, evaluation=None),
        fingerprint=fingerprint,
        sources=sources,
        weights=weights_of(cache),
        evaluations=evaluations,
        agreement=agreement,
        index=index.manifest,
        limits=parts.limits,
        commands=parts.commands,
        make=parts.make,
    )
    say("packing the feature index")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(parts.compact / SAE_FOLDER, folder / SAE_FOLDER)
        pack_index(
            parts.compact / FOLDER, folder / PACKED_INDEX, sources=[one.name for one in sources]
        )
        (folder / CARD).write_text(dictionary_card(facts), encoding="utf-8")
        for title, values in evaluations.items():
            write_json(folder / evaluation_file(title), values)
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        record = {
            "format": FORMAT,
            "name": parts.name,
            "sae": fingerprint,
            "license": parts.license,
            "sources": [asdict(source) for source in sources],
            "int8": asdict(agreement),
            "evaluations": {title: evaluation_file(title) for title in evaluations},
            "files": recorded_files(folder, names),
        }
        write_checked_json(folder / RECORD, record)
        sizes = {
            str(path.relative_to(folder)): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        _require_small(sizes, most_bytes)
        with atomic_folder(out) as final:
            shutil.copytree(folder, final, dirs_exist_ok=True)
    return sizes


def evaluation_file(title: str) -> str:
    """The file of an evaluation in the dictionary's folder."""
    kept = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    return f"evaluation-{kept}.json"


def _evaluation(path: Path, fingerprint: str, parts: DictionaryParts) -> dict[str, Any]:
    """What was measured, without the paths of this machine."""
    found = read_json(path, "evaluation", remedy="measure again")
    of_suite = found.get("autoencoders", [])
    measured = next((one for one in of_suite if one["baseline"] is None), found)
    if measured.get("fingerprint", fingerprint) != fingerprint:
        raise InputError(
            f"the evaluation {path} is of another autoencoder than {parts.compact} holds; remove "
            "it, and measure again"
        )
    if of_suite:
        return _short_suite(found, parts)
    return {**without_paths(found), "sae": parts.name, "cache": parts.cache.name}


def _short_suite(found: Mapping[str, Any], parts: DictionaryParts) -> dict[str, Any]:
    """The figures of a suite, without details and paths."""
    autoencoders = [
        {
            "name": one["name"] if one["baseline"] else parts.name,
            **{key: one[key] for key in ("baseline", "site", "activation", "n_latents")},
            "parts": {
                part: {key: measured[key] for key in ("figures", "warnings")}
                for part, measured in one["parts"].items()
            },
        }
        for one in found["autoencoders"]
    ]
    return {
        "cache": parts.cache.name,
        "parts": found["parts"],
        "autoencoders": autoencoders,
        "seeds": [],
    }


def _agreement(
    trained: SparseAutoencoder, compact: SparseAutoencoder, cache: ActivationCache
) -> CodeAgreement:
    """Of the autoencoder as it was trained with the one that is shipped, on held-out rows."""
    site = None if compact.origin is None else compact.origin.site
    rows_ND = cache.held_out(site=cache.site_name(site), limit=_COMPARED_ROWS)
    return code_agreement(trained.activation.exported(trained), compact, rows_ND.float())


def _require_small(sizes: Mapping[str, int], most_bytes: int) -> None:
    if (total := sum(sizes.values())) > most_bytes:
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
        which = ", ".join(f"{name} {size(sizes[name])}" for name in largest)
        raise InputError(
            f"the dictionary has {size(total)} ({which}), more than {size(most_bytes)}; keep fewer "
            "or shorter examples in its index, or train fewer latents"
        )
