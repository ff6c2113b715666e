"""The catalog of public releases: its entries fit what the readers find in the releases' paths."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.interop import catalog, hub
from sparsteer.sae.interop.hub import parse_hub_source
from sparsteer.sae.interop.layouts import LAYOUTS

from .foreign_files import gemma_scope, gemma_scope_2, goodfire, qresearch, qwen_scope, weights

LAYOUT_NAMES = {*LAYOUTS.names(), "sparsify", "dictionary_learning"}


def test_every_example_is_an_entry() -> None:
    for release in catalog.RELEASES:
        entry = catalog.entry(f"{release.name}/{release.example}")
        assert entry is not None and entry.layout in LAYOUT_NAMES, release.name
        source, origin = parse_hub_source(entry.source), entry.origin
        assert source.repository == release.repository
        assert release.example in str(source.subfolder)
        for site in (origin.site, origin.target_site or origin.site):
            assert re.fullmatch(r"blocks\.\d+\.(\w+\.)?hook_\w+", site)
        is_transcoder = re.search("transcoder|_lxtc_", release.name) is not None
        assert (origin.target_site is not None) == is_transcoder
        assert "/" in origin.model


def test_names_are_unique_and_the_file_is_short() -> None:
    names = [release.name for release in catalog.RELEASES]
    assert len(set(names)) == len(names)
    assert len(Path(catalog.__file__).read_text(encoding="utf-8").splitlines()) <= 300


def test_what_is_no_entry() -> None:
    for name in ("gemma-scope-2b-pt-res", "gemma-scope-2b-pt-res/embedding", "unknown/layer_3"):
        assert catalog.entry(name) is None
    assert {release.layout for release in catalog.matching("QWEN3.5")} == {"qwen_scope"}


NAMED = [
    release
    for release in catalog.RELEASES
    if release.layout in ("gemma_scope", "qwen_scope", "goodfire")
]


def test_readers_find_the_same_in_the_hubs_cache(tmp_path: Path) -> None:
    """Files of these layouts do not say where they belong; their paths do, as the catalog says."""
    w = weights("b_enc", "threshold")
    twice = {  # as many latents as the largest k
        "W_enc": w["W_enc"].repeat(1, 2),
        "W_dec": w["W_dec"].repeat(2, 1),
        "b_enc": w["b_enc"].repeat(2),
        "b_dec": w["b_dec"],
    }
    files = {
        "gemma_scope": [gemma_scope(tmp_path, w), gemma_scope_2(tmp_path, w)],
        "qwen_scope": [qwen_scope(tmp_path, twice)],
        "goodfire": [goodfire(tmp_path, w), qresearch(tmp_path, w)],
    }
    for release in NAMED:
        entry = catalog.entry(f"{release.name}/{release.example}")
        assert entry is not None
        source = parse_hub_source(entry.source)
        owner, name = source.repository.split("/")
        place = tmp_path / f"models--{owner}--{name}" / "snapshots" / "0f" / str(source.subfolder)
        first, last = files[release.layout][0], files[release.layout][-1]
        file = last if owner == "qresearch" else first
        if release.layout == "gemma_scope":
            is_npz = place.suffix == ".npz"
            file = first / "params.npz" if is_npz else last / "params.safetensors"
            place = place if is_npz else place / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        sae = SparseAutoencoder.load(place)
        found, said = sae.origin, entry.origin
        assert found is not None, release.name
        assert (found.model, found.site, found.target_site, found.prepends_bos) == (
            *(said.model, said.site, said.target_site, said.prepends_bos),
        )
        assert sae.config.transcoder == (said.target_site is not None)
        place.unlink()


def test_weights_in_a_folder_of_the_autoencoders_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama Scope has its weights in a folder of their own, where the others have none."""
    folder = "Llama3_1-8B-Base-L15R-8x"
    names = [
        *(f"{folder}/hyperparams.json", f"{folder}/lm_config.json"),
        *(f"{folder}/checkpoints/final.safetensors", f"{folder}/checkpoints/100.safetensors"),
        "Llama3_1-8B-Base-L16R-8x/checkpoints/final.safetensors",
    ]
    chosen: list[str] = []

    def download(repository: str, choose: Any, **options: Any) -> Any:
        chosen.extend(choose(names))
        return SimpleNamespace(folder=tmp_path, commit="0f" * 20)

    monkeypatch.setattr(hub, "download", download)
    entry = catalog.entry(f"llama_scope_lxr_8x/{folder}")
    assert entry is not None
    assert hub.fetch_from_hub(entry.source).path == tmp_path / folder
    assert sorted(chosen) == sorted(names[:3])
