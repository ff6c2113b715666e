"""Which families of language models work, and how far, tried with tiny random ones.

    python -m tests.steering.model_families [FAMILY ...]

prints a line of the table in docs/models.md for each; without names it writes all of them there.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

# Before anything imports the Hugging Face libraries, which read it once.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from jaxtyping import Float
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.sites import read_sites
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import generate
from sparsteer.steering.interventions.added_vector import added_vector
from sparsteer.steering.interventions.intervention import TIERS, Intervention
from sparsteer.steering.interventions.spec import SteeredFeature
from sparsteer.steering.texts import prompt_tokens

from .model_shapes import BASE, FAMILIES

auto_model: Any = AutoModelForCausalLM  # transformers leaves its types open

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = "| family | logits | left padding | right padding | cache | tiers | sites |"
KINDS = ("resid_post", "mlp_out", "attn_out")
PROMPTS = ("Where is it", "x", "a b c a b")
N_TOKENS = 6


def save_model(family: str, folder: Path) -> None:
    """A random model of the family with a tokenizer of single bytes; its logits differ widely."""
    config, settings = FAMILIES[family]
    shape = {name: value for name, value in (BASE | settings).items() if value is not None}
    torch.default_generator.manual_seed(0)
    model = auto_model.from_config(getattr(transformers, config)(**shape))
    for weight in model.parameters():
        if weight.ndim > 1 and weight.numel() > 50 and weight.std() < 0.1:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    save_tokenizer(folder)


def save_tokenizer(folder: Path) -> None:
    words = ["<|pad|>", "<|bos|>", "<|eos|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"pad_token": words[0], "bos_token": words[1], "eos_token": words[2]}
    tokenizers: Any = transformers.PreTrainedTokenizerFast
    tokenizers(tokenizer_object=backend, **special).save_pretrained(folder)


def line(family: str) -> str:
    """The family's line of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        save_model(family, folder)
        try:
            model = LanguageModel.load(str(folder), progress=lambda sentence: None)
        except InputError as error:
            what = str(error).partition(", which ")[2] or str(error).partition(", in which ")[2]
            return f"| {family} | refused: {what.partition(' (')[0].partition(';')[0]} | | | | | |"
        plain = auto_model.from_pretrained(folder, attn_implementation="eager").eval()
        cells = [
            _yes(_close(*_logits(model, plain))),
            *(_padding(model, plain, side) for side in ("left", "right")),
            _cache(model, plain),
            *_steering(model),
        ]
    return f"| {family} | {' | '.join(cells)} |"


def _rows(model: LanguageModel) -> list[list[int]]:
    return [prompt_tokens(model, prompt) for prompt in PROMPTS]


@torch.no_grad()
def _plain(plain: Any, ids: Sequence[int]) -> Float[Tensor, "L V"]:
    return plain(torch.tensor([list(ids)]), use_cache=False).logits[0]


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() < 2e-3 * expected.std())


def _yes(right: bool) -> str:
    return "yes" if right else "WRONG"


def _logits(model: LanguageModel, plain: Any) -> tuple[Tensor, Tensor]:
    ids = _rows(model)[0]
    return model.logits(torch.tensor([ids]))[0], _plain(plain, ids)


def _padding(model: LanguageModel, plain: Any, side: str) -> str:
    """Whether rows of unlike lengths have the logits of each row alone."""
    rows = _rows(model)
    width = max(map(len, rows))
    tokens_BL = torch.full((len(rows), width), 0)
    mask_BL = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(len(row))
        tokens_BL[number, place] = torch.tensor(row)
        mask_BL[number, place] = True
    try:
        logits_BLV = model.logits(tokens_BL, mask_BL)
    except InputError:
        return "refused"
    return _yes(
        all(
            _close(logits_BLV[number, mask_BL[number]], _plain(plain, row))
            for number, row in enumerate(rows)
        )
    )


def _batch_size(model: LanguageModel) -> int:
    return 1 if "left" in model.wrong_padding else len(PROMPTS)


def _cache(model: LanguageModel, plain: Any) -> str:
    """Whether text comes from the cache, and is what transformers gives without one."""
    expected: list[list[int]] = []
    for row in _rows(model):
        ids = list(row)
        while len(ids) < len(row) + N_TOKENS:
            token = int(_plain(plain, ids)[-1].argmax())
            if token == model.eos_id:
                break
            ids.append(token)
        expected.append(ids[len(row) :])
    for size in {1, _batch_size(model)}:
        sampling = Sampling(max_new_tokens=N_TOKENS, batch_size=size)
        if [list(text.tokens) for text in generate(model, PROMPTS, sampling)] != expected:
            return "WRONG"
    return "yes" if model.kv_cache_works else "without"


def _steering(model: LanguageModel) -> tuple[str, str]:
    """Which tiers steer as they are defined, and which sites can be read and written."""
    name = model.site().name
    sae = SparseAutoencoder(TopKConfig(model.d_model, 96, 4), seed=5)
    acts_BLD: Any = model.site().read(_ids(model))
    sae.input_scale.fill_(model.d_model**0.5 / float(acts_BLD.norm(dim=-1).mean()))
    latents: list[int] = cast(Any, sae.encode(acts_BLD).indices)[0, -1].tolist()
    spec_features = tuple(
        SteeredFeature(index=latent, strength=3.0, max_activation=2.0) for latent in latents[:2]
    )
    wrong = [tier for tier in TIERS if not _tier_right(model, sae, name, spec_features, tier)]
    sites = [kind for kind in KINDS if _site_right(model, kind)]
    return ", ".join(f"{tier} WRONG" for tier in wrong) or "all", ", ".join(sites) or "none"


def _ids(model: LanguageModel) -> Tensor:
    return torch.tensor([_rows(model)[0]])


def _tier_right(
    model: LanguageModel,
    sae: SparseAutoencoder,
    site: str,
    features: tuple[SteeredFeature, ...],
    tier: str,
) -> bool:
    """Whether a batch is steered as each prompt alone, by the definition of the tiers."""
    spec = Intervention.of_features(site=site, features=features, tier=tier)
    sampling = Sampling(max_new_tokens=N_TOKENS, batch_size=_batch_size(model))
    found = generate(model, PROMPTS, sampling, intervention=spec, sae=sae)
    return all(
        list(text.tokens) == _by_definition(model, sae, spec, row)
        for text, row in zip(found, _rows(model), strict=True)
    )


@torch.no_grad()
def _by_definition(
    model: LanguageModel, sae: SparseAutoencoder, spec: Intervention, prompt: Sequence[int]
) -> list[int]:
    """One text alone, the whole of it anew for each token."""
    ids, delta_D = list(prompt), added_vector(spec, sae)
    for _ in range(N_TOKENS):
        tokens_BL = torch.tensor([ids])
        codes = sae.encode(model.site(spec.site).read(tokens_BL))
        acts_LM = codes.dense(sae.config.n_latents)[0]
        fires_L = (acts_LM[:, [feature.index for feature in spec.features]] > 0).any(dim=1)
        fires_L &= ~model.excluded_tokens(tokens_BL)[0]
        if spec.tier == "constant":
            fires_L[:] = True
        elif spec.tier == "per_input":
            fires_L = fires_L.cummax(dim=0).values
            fires_L[:] |= fires_L[: len(prompt)].any()
        with model.site(spec.site).write(
            lambda h_BLD, on_L=fires_L: torch.where(on_L[None, :, None], h_BLD + delta_D, h_BLD)
        ):
            token = int(model.logits(tokens_BL)[0, -1].argmax())
        if token == model.eos_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


def _site_right(model: LanguageModel, kind: str) -> bool:
    """Whether every layer that computes it can be read there, and written so that logits follow."""
    names = [name for name in model.site_names if name.endswith(kind)]
    ids = _ids(model)
    before = model.logits(ids)
    for name in names:
        site = model.site(name)
        acts = read_sites(model, [site], ids)[name]
        with site.write(lambda h_BLD: h_BLD.clone()):
            same = torch.equal(model.logits(ids), before)
        with site.write(lambda h_BLD: h_BLD.flip(-1)):
            moved = not torch.equal(model.logits(ids), before)
            read = torch.equal(site.read(ids), acts.flip(-1))
        if not (same and moved and read and acts.shape == (1, ids.shape[1], model.d_model)):
            return False
    return bool(names)


def written(page: str, lines: Sequence[str]) -> str:
    """The page with these lines as its table."""
    before, _, rest = page.partition(HEAD)
    after = rest[rest.index("\n\n") :]
    return f"{before}{HEAD}\n|{' --- |' * 7}\n" + "\n".join(lines) + after


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    lines: list[str] = []
    for family in sys.argv[1:] or FAMILIES:
        lines.append(line(family))
        print(lines[-1], flush=True)
    if not sys.argv[1:]:
        PAGE.write_text(written(PAGE.read_text(), lines))


if __name__ == "__main__":
    main()
