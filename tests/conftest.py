"""What every test shares: no network, one thread, explicit randomness, a tiny language model."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import jaxtyping
import pytest

# Before anything imports the Hugging Face libraries, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"

import torch

from sparsteer.sae.fetching.fetch import ARTIFACTS

from .hub_stand_in import HubStandIn, hub_stand_in

if TYPE_CHECKING:
    from sparsteer.sae.language_model.model import LanguageModel

_USER_CACHE = os.environ.get("SPARSTEER_CACHE")

torch.set_num_threads(1)
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `slow_except` leaves out, before `-m` chooses."""
    for item in items:
        quick = item.get_closest_marker("slow_except")
        if quick is not None and item.name.partition("[")[2].removesuffix("]") not in quick.args:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whichever ran before it."""
    torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty SPARSTEER_CACHE, so that no test reads or fills the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_CACHE", str(folder))
        yield folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A stand-in for the Hugging Face hub, which its client in this process asks; an empty cache,
    and nobody logged in.

    What the client read from the environment when it was imported is changed where it is kept. For
    a program of its own, `HubStandIn.environment` has the variables.
    """
    from huggingface_hub import constants

    with hub_stand_in(tmp_path / "hub-cache") as server:
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", server.environment["HF_HUB_CACHE"])
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", server.environment["HF_TOKEN_PATH"])
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama (3 layers, width 32) and a tokenizer of single bytes.

    Token ids: pad 0, bos 1, eos 2, then the 256 bytes; contexts of up to 512 tokens. The weights
    are large enough that layers differ and that logits are far from uniform.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<|pad|>", "<|bos|>", "<|eos|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        clean_up_tokenization_spaces=False,
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.default_generator.manual_seed(0)
    model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    # transformers leaves the types of its keyword arguments open.
    model.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    tokenizer.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> "LanguageModel":
    """The tiny model, loaded once; a test that changes it must change it back."""
    from sparsteer.sae.language_model.model import LanguageModel

    return LanguageModel.load(str(tiny_model_folder))


@pytest.fixture
def made_up_texts(texts_to_fetch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for SPARSTEER_CACHE that holds made-up toxicity prompts and instruction rows, as if
    they were fetched and pinned."""
    for name in ("rtp-prompts", "instructions"):
        artifact = ARTIFACTS[name]
        content = (texts_to_fetch / name / artifact.file).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(ARTIFACTS, name, dataclasses.replace(artifact, sha256=digest))
    return texts_to_fetch


@pytest.fixture(scope="session")
def texts_to_fetch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `made_up_texts`."""
    source = random.Random(5)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 7))) for _ in range(200)]

    def text(length: int) -> str:
        return " ".join(source.choices(words, k=length))

    rows: dict[str, list[dict[str, str]]] = {
        "rtp-prompts": [
            {"prompt": text(source.randint(3, 12)), "attribute": "insult"} for _ in range(40)
        ],
        "instructions": [
            {"group": group, "instruction": text(9), "output": text(source.randint(2, 9))}
            for group in ("stem", "code")
            for _ in range(14)
        ],
    }
    folder = tmp_path_factory.mktemp("fetched")
    for name, lines in rows.items():
        artifact = ARTIFACTS[name]
        file = folder / name / artifact.file
        file.parent.mkdir()
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        record = {
            "origin": artifact.origin,
            "revision": artifact.revision,
            "files": {artifact.file: {"size": file.stat().st_size, "sha256": digest}},
        }
        (file.parent / "fetched.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def default_model(cache_folder: Path) -> "LanguageModel":
    """The default model from the user's own cache, fetched if it is not there: for tests marked
    `download`."""
    from sparsteer.sae.language_model.model import LanguageModel

    with _user_cache():
        return LanguageModel.load("smollm2-135m")


@pytest.fixture
def user_cache() -> Iterator[None]:
    """The user's own cache instead of the empty one: for tests marked `download`."""
    with _user_cache():
        yield


@contextmanager
def _user_cache() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if _USER_CACHE is None:
            patch.delenv("SPARSTEER_CACHE")
        else:
            patch.setenv("SPARSTEER_CACHE", _USER_CACHE)
        yield


@pytest.fixture(scope="session", params=["gpt2", "gpt_neox", "gemma2"])
def other_model(
    request: pytest.FixtureRequest,
    tiny_model_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> "LanguageModel":
    """Random models (3 layers, width 32) unlike a Llama: learned positions, parallel blocks, capped
    logits."""
    from transformers import Gemma2Config, GPT2Config, GPTNeoXConfig
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    from sparsteer.sae.language_model.model import LanguageModel

    shape: dict[str, Any] = {
        "vocab_size": 259,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    gemma: dict[str, Any] = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    config = {
        "gpt2": lambda: GPT2Config(**shape),
        "gpt_neox": lambda: GPTNeoXConfig(**shape, intermediate_size=64),
        "gemma2": lambda: Gemma2Config(**shape, **gemma, final_logit_softcapping=2.0),
    }[request.param]()
    torch.default_generator.manual_seed(0)
    auto_model: Any = AutoModelForCausalLM  # transformers leaves its types open
    model = auto_model.from_config(config)
    folder = tmp_path_factory.mktemp("models") / request.param
    model.save_pretrained(folder)
    for file in tiny_model_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    return LanguageModel.load(str(folder))


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """The state a user has: no annotation is checked, only what the code checks itself."""
    # jaxtyping leaves the type of the value open.
    jaxtyping.config.update("jaxtyping_disable", True)  # pyright: ignore[reportUnknownMemberType]
    yield
    jaxtyping.config.update("jaxtyping_disable", False)  # pyright: ignore[reportUnknownMemberType]
