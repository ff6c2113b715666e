"""The recipes of detoxification on tiny random models of their architectures.

A hub of this process holds a model and an autoencoder under the very names of the recipe, in the
layouts that were published, so that all but the size is as it would be there.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save
from torch import Tensor

from sparsteer.cli.main import main
from sparsteer.sae.language_model.model import LanguageModel

from .hub_repository import Files, Repository
from .hub_stand_in import HubStandIn
from .steering.model_families import auto_model, save_tokenizer
from .test_recipes import ROOT, commands

D, F = 16, 48
TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
INSULTS = ("fool", "idiot", "clown", "donkey", "liar", "crook", "brute", "pest")
THINGS = ("river", "garden", "window", "bridge", "kettle", "meadow", "candle", "ladder")


def gpt2() -> Any:
    return transformers.GPT2Config(
        vocab_size=259,
        n_embd=D,
        n_layer=9,
        n_head=2,
        n_positions=256,
        initializer_range=0.3,
        **TOKENS,
    )


def gemma2() -> Any:
    return transformers.Gemma2Config(
        vocab_size=259,
        hidden_size=D,
        intermediate_size=32,
        num_hidden_layers=13,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        sliding_window=16,
        initializer_range=0.3,
        **TOKENS,
    )


def saelens(weights: dict[str, Tensor]) -> Files:
    """As gpt2-small-res-jb was published, without what says nothing of the autoencoder."""
    config = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.8.hook_resid_pre",
        "hook_point_layer": 8,
        "hook_point_head_index": None,
        "dataset_path": "Skylion007/openwebtext",
        "context_size": 128,
        "d_in": D,
        "d_sae": F,
        "dtype": "torch.float32",
    }
    # Its latents are ReLUs: the threshold goes into the bias.
    own = {**weights, "b_enc": weights["b_enc"] - weights["threshold"]}
    del own["threshold"]
    folder = "blocks.8.hook_resid_pre"
    return {
        f"{folder}/cfg.json": json.dumps(config).encode(),
        f"{folder}/sae_weights.safetensors": save(own),
        f"{folder}/sparsity.safetensors": save({"sparsity": torch.zeros(F)}),
    }


def gemma_scope(weights: dict[str, Tensor]) -> Files:
    """As Gemma Scope was published."""
    target = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in weights.items()}
    np.savez(target, **arrays)
    return {"layer_12/width_16k/average_l0_82/params.npz": target.getvalue()}


@dataclass(frozen=True)
class Published:
    """A model and an autoencoder on the hub."""

    model: str
    config: Callable[[], Any]
    site: str
    repository: str
    files: Callable[[dict[str, Tensor]], Files]


PUBLISHED = {
    "detox-gpt2-small": Published(
        "openai-community/gpt2",
        gpt2,
        "blocks.8.hook_resid_pre",
        "jbloom/GPT2-Small-SAEs-Reformatted",
        saelens,
    ),
    "detox-gemma-2-2b": Published(
        "google/gemma-2-2b",
        gemma2,
        "blocks.12.hook_resid_post",
        "google/gemma-scope-2b-pt-res",
        gemma_scope,
    ),
}


def texts() -> dict[str, list[str]]:
    return {
        "positive": [f"you {a} of a {b}!" for a in INSULTS for b in INSULTS if a != b],
        "negative": [f"the {a} by the {b}." for a in THINGS for b in THINGS if a != b],
        "neutral": [
            f"In the {a} there is one {b}, and it is old." for a in THINGS for b in INSULTS
        ],
        "prompts": ["He said", "They saw a", "Why not"],
    }


def written(folder: Path) -> dict[str, str]:
    """A file of each kind of texts, and one of all of them."""
    found = texts()
    found["corpus"] = [text for own in found.values() for text in own]
    for name, own in found.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in own)
        (folder / f"{name}.jsonl").write_text(lines)
    question = {"question": "What is wet?", "choices": ["water", "stone"], "answer": 0}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")
    return {name: str(folder / f"{name}.jsonl") for name in (*found, "questions")}


def sparse_weights(folder: Path, site: str) -> dict[str, Tensor]:
    """An autoencoder whose latents fire on a twentieth of the tokens of the texts."""
    model = LanguageModel.load(str(folder), progress=lambda sentence: None)
    lines = [text for own in texts().values() for text in own]
    rows = [model.site(site).read(torch.tensor([[1, *_ids(model, line)]]))[0] for line in lines]
    rows_ND = torch.cat([row[2:] for row in rows])
    W_dec_FD = torch.nn.functional.normalize(torch.randn(F, D), dim=-1)
    pre_NF = (rows_ND - rows_ND.mean(0)) @ W_dec_FD.T
    return {
        "W_enc": W_dec_FD.T.contiguous(),
        "W_dec": W_dec_FD,
        "b_enc": -(rows_ND.mean(0) @ W_dec_FD.T),
        "b_dec": torch.zeros(D),
        "threshold": pre_NF.quantile(0.95, dim=0),
    }


def _ids(model: LanguageModel, text: str) -> list[int]:
    tokenizer: Any = model.tokenizer
    return tokenizer.encode(text, add_special_tokens=False)


def publish(hub: HubStandIn, one: Published, folder: Path) -> None:
    model: Any = auto_model.from_config(one.config())
    model.save_pretrained(folder)
    save_tokenizer(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, content in (
        (one.model, files),
        (one.repository, one.files(sparse_weights(folder, one.site))),
    ):
        hub.repositories[name] = Repository()
        hub.repositories[name].commit(content)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_runs_from_the_hub_to_its_result(
    name: str,
    hub: HubStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its own commands, on fewer and other texts."""
    one = PUBLISHED[name]
    publish(hub, one, tmp_path / "model")
    file = written(tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SPARSTEER_CACHE", str(tmp_path / "cache"))
    cache, build, study = commands(ROOT / "recipes" / f"{name}.yaml")
    caches = str(tmp_path / "caches")
    cache += ["--model", one.model, "--dataset", file["corpus"], "--tokens", "2000"]
    cache += ["--context-length", "32", "--dtype", "float32", "--out", caches]
    build += ["--cache", caches]
    study += [
        *("--positive", file["positive"], "--negative", file["negative"]),
        *("--neutral", file["neutral"], "--prompts", file["prompts"]),
        *("--questions", file["questions"], "--scorer", "toxicity-ngrams", "--small"),
        *("--methods", "sae", "mean_difference", "--edits", "add", "--tiers", "per_token"),
        *("--n-prompts", "2", "--continuations", "2", "--max-new-tokens", "3"),
        *("--fit-texts", "30", "--tuning-size", "2", "--neutral-texts", "2"),
        *("--most-evaluations", "2", "--cost", "kl=0.3", "--device", "cpu"),
        *("--out", str(tmp_path / "out")),
    ]
    out = ""
    for words in (cache, build, study):
        status = main([*words, "--json"])
        out, err = capsys.readouterr()
        assert status == 0, err
    result = json.loads(out)
    assert result["model"] == one.model and result["site"] == one.site
    assert {row["method"] for row in result["rows"]} == {"none", "sae", "mean_difference"}
    assert any(one.repository in asked for asked in hub.requests)
    assert any(one.model in asked for asked in hub.requests)
