"""Public releases of autoencoders by short names: where they lie, their layout, model and site.

A name is RELEASE/ID, as `gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82`; releases have the
names that SAELens gives them where it has them. An ID is the path in the repository, so that each
new file of a release is found without a new line here. Facts: the repositories' own cards.
"""

import re
from dataclasses import dataclass

from ..config import Origin
from .hub import PREFIX
from .model_names import loadable_name

_RESID = "blocks.{layer}.hook_resid_post"
_RESID_PRE = "blocks.{layer}.hook_resid_pre"
_RESID_MID = "blocks.{layer}.hook_resid_mid"
_ATTN = "blocks.{layer}.hook_attn_out"
_MLP = "blocks.{layer}.hook_mlp_out"
_NAMED_SITE = "{site}"
"""The ID itself ends with the site."""


@dataclass(frozen=True)
class Release:
    """Autoencoders of one language model in one repository."""

    name: str
    """The first part of a short name."""
    repository: str
    """OWNER/NAME on the hub."""
    layout: str
    """Of its files."""
    model: str
    """The language model, by its name on the hub or of TransformerLens."""
    site: str
    """Where its autoencoders read, with the layer's number in it."""
    path: str = r".*layer_(?P<layer>\d+).*"
    """What IDs look like, a regular expression that finds the layer or the site in them."""
    example: str = ""
    """An ID that the release has."""
    file: str = ""
    """What follows the ID in the repository, such as the ending of a file."""
    folder: str = ""
    """What comes before it."""
    target_site: str | None = None
    """What its transcoders predict."""
    prepends_bos: bool = True
    """Whether each context began with BOS when its activations were read."""
    revision: str = "main"
    """The branch, tag or commit."""


@dataclass(frozen=True)
class Entry:
    """One autoencoder of the catalog."""

    source: str
    """Where it lies, `hub:...`."""
    layout: str
    """Of its files."""
    origin: Origin
    """Its language model and site."""


def entry(name: str) -> Entry | None:
    """The autoencoder that a short name means; None if its release is not in the catalog, or the
    rest of the name is no ID of it."""
    for release in RELEASES:
        identity = name.removeprefix(f"{release.name}/")
        found = re.fullmatch(release.path, identity)
        if identity == name or found is None:
            continue
        parts = found.groupdict()
        target_site = release.target_site
        return Entry(
            source=f"{PREFIX}{release.repository}/{release.folder}{identity}{release.file}"
            + ("" if release.revision == "main" else f"@{release.revision}"),
            layout=release.layout,
            origin=Origin(
                model=loadable_name(release.model),
                site=release.site.format(**parts),
                target_site=target_site and target_site.format(**parts),
                prepends_bos=release.prepends_bos,
            ),
        )
    return None


def matching(word: str) -> list[Release]:
    """The releases in whose name, repository or model a word occurs, in whatever case."""
    return [
        release
        for release in RELEASES
        if word.lower() in f"{release.name} {release.repository} {release.model}".lower()
    ]


def _gemma_scope(name: str, model: str, kind: str, site: str, example: str) -> Release:
    return Release(
        f"gemma-scope-{name}-{kind}",
        f"google/gemma-scope-{name}-{kind}",
        "gemma_scope",
        f"google/{model}",
        site,
        example=example,
        file="/params.npz",
    )


def _gemma_scope_2(size: str, kind: str, folder: str, site: str, suffix: str) -> Release:
    name, tuned = size.rsplit("-", 1)
    plain = name == "270m" and tuned == "pt"
    return Release(
        f"gemma-scope-2-{size}-{kind}{suffix and '-all'}",
        f"google/gemma-scope-2-{size}",
        "gemma_scope",
        f"google/gemma-3-{'270m' if plain else size}",
        site,
        example=f"layer_{0 if suffix else 12}_width_16k_l0_small",
        folder=f"{folder}{suffix}/",
        target_site=_MLP if kind == "transcoders" else None,
    )


def _llama_scope(kind: str, width: str, site: str) -> Release:
    letter = kind[-1].upper()
    return Release(
        f"llama_scope_lx{kind}_{width}",
        f"fnlp/Llama3_1-8B-Base-LX{letter}-{width}",
        "llama_scope",
        "meta-llama/Llama-3.1-8B",
        site,
        path=rf"Llama3_1-8B-Base-L(?P<layer>\d+){letter}-{width}",
        example=f"Llama3_1-8B-Base-L15{letter}-{width}",
    )


def _qwen_scope(model: str, width: str, l0: int) -> Release:
    return Release(
        f"qwen-scope-{model.removeprefix('Qwen').lower()}-w{width.lower()}-l{l0}",
        f"Qwen/SAE-Res-{model}-W{width}-L0_{l0}",
        "qwen_scope",
        f"Qwen/{model}",
        _RESID,
        path=r"layer(?P<layer>\d+)",
        example="layer12",
        file=".sae.pt",
        prepends_bos=False,
    )


def _saelens(name: str, repository: str, model: str, site: str, path: str, example: str) -> Release:
    return Release(name, repository, "saelens", model, site, path=path, example=example)


_ANY_SITE = r"(?:.*/)?(?P<site>blocks\.\d+\.hook_\w+?)(?:_\d+)?"
_GEMMA_2 = {"2b": "gemma-2-2b", "9b": "gemma-2-9b"}
_GEMMA_3_SIZES = [
    f"{n}-{tuned}" for n in ("270m", "1b", "4b", "12b", "27b") for tuned in ("pt", "it")
]
_GEMMA_3_KINDS = {
    "res": ("resid_post", _RESID),
    "att": ("attn_out", _ATTN),
    "mlp": ("mlp_out", _MLP),
    "transcoders": ("transcoder", "blocks.{layer}.ln2.hook_normalized"),
}
_QWENS = [
    *(("Qwen3-1.7B-Base", "32K", l0) for l0 in (50, 100)),
    *(("Qwen3-8B-Base", "64K", l0) for l0 in (50, 100)),
    ("Qwen3-30B-A3B-Base", "32K", 50),
    ("Qwen3-30B-A3B-Base", "128K", 100),
    *(("Qwen3.5-2B-Base", "32K", l0) for l0 in (50, 100)),
    *(("Qwen3.5-9B-Base", "64K", l0) for l0 in (50, 100)),
    *(("Qwen3.5-27B", "80K", l0) for l0 in (50, 100)),
    ("Qwen3.5-35B-A3B-Base", "32K", 50),
    ("Qwen3.5-35B-A3B-Base", "128K", 100),
]
_OAI = r"v5_(?:32|128)k_layer_(?P<layer>\d+)(?:\.pt)?"
_OAI_SITES = {
    "attn-out": _ATTN,
    "mlp-out": _MLP,
    "resid-mid": _RESID_MID,
    "resid-post": _RESID,
}
_MWHANNA = [
    *(f"{size}-transcoders-lowl0" for size in ("0.6b", "1.7b", "14b")),
    *(f"{size}-transcoders" for size in ("4b", "8b", "14b")),
]
_ANDYRDT = {
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
    "gpt-oss-20b": "openai/gpt-oss-20b",
}

RELEASES: tuple[Release, ...] = (
    *(
        _gemma_scope(f"{size}-pt", model, kind, site, f"layer_12/width_16k/average_l0_{l0}")
        for size, model in _GEMMA_2.items()
        for kind, site, l0 in (("res", _RESID, 82), ("att", _ATTN, 85), ("mlp", _MLP, 69))
    ),
    _gemma_scope("9b-it", "gemma-2-9b-it", "res", _RESID, "layer_20/width_16k/average_l0_91"),
    _gemma_scope("27b-pt", "gemma-2-27b", "res", _RESID, "layer_22/width_131k/average_l0_82"),
    Release(
        "gemma-scope-2b-pt-transcoders",
        "google/gemma-scope-2b-pt-transcoders",
        "gemma_scope",
        "google/gemma-2-2b",
        "blocks.{layer}.ln2.hook_normalized",
        example="layer_0/width_16k/average_l0_76",
        file="/params.npz",
        target_site=_MLP,
    ),
    *(
        _gemma_scope_2(size, kind, folder, site, suffix)
        for size in _GEMMA_3_SIZES
        for kind, (folder, site) in _GEMMA_3_KINDS.items()
        for suffix in ("", "_all")
    ),
    *(
        _llama_scope(kind, width, site)
        for kind, site in (("r", _RESID), ("a", _ATTN), ("m", _MLP))
        for width in ("8x", "32x")
    ),
    *(_qwen_scope(*one) for one in _QWENS),
    _saelens(
        *("gpt2-small-res-jb", "jbloom/GPT2-Small-SAEs-Reformatted", "gpt2-small", _NAMED_SITE),
        *(_ANY_SITE, "blocks.8.hook_resid_pre"),
    ),
    _saelens(
        "gpt2-small-res-jb-feature-splitting",
        "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8",
        *("gpt2-small", _NAMED_SITE, _ANY_SITE, "blocks.8.hook_resid_pre_768"),
    ),
    *(
        _saelens(
            f"gpt2-small-{kind}-v5-{width}",
            f"jbloom/GPT2-Small-OAI-v5-{width}-{kind}-SAEs",
            *("gpt2-small", site, _OAI, f"v5_{width}_layer_8"),
        )
        for kind, site in _OAI_SITES.items()
        for width in ("32k", "128k")
    ),
    *(
        _saelens(
            f"pythia-70m-deduped-{kind}-sm",
            f"ctigges/pythia-70m-deduped__{kind}-sm_processed",
            *("pythia-70m-deduped", site, rf"(?P<layer>\d+)-{kind}-sm", f"3-{kind}-sm"),
        )
        for kind, site in (("res", _RESID), ("att", _ATTN), ("mlp", _MLP))
    ),
    *(
        _saelens(
            f"gemma-{name}-res-matryoshka-dc",
            f"chanind/gemma-{name}-batch-topk-matryoshka-saes-w-32k-l0-{l0}",
            *(f"gemma-{model}", _NAMED_SITE, _ANY_SITE, example),
        )
        for name, model, l0, example in (
            ("2-2b", "2-2b", 40, "standard/blocks.12.hook_resid_post"),
            ("2-9b", "2-9b", 60, "blocks.20.hook_resid_post"),
            ("3-1b", "3-1b-pt", 40, "blocks.12.hook_resid_post"),
        )
    ),
    _saelens(
        *("mistral-7b-res-wg", "JoshEngels/Mistral-7B-Residual-Stream-SAEs", "mistral-7b"),
        *(_RESID_PRE, r"mistral_7b_layer_(?P<layer>\d+)", "mistral_7b_layer_8"),
    ),
    *(
        Release(
            name,
            f"EleutherAI/{name}",
            *("sparsify", model, _RESID),
            path=r"layers\.(?P<layer>\d+)",
            example="layers.3",
            prepends_bos=False,
        )
        for name, model in (
            ("sae-pythia-70m-32k", "EleutherAI/pythia-70m"),
            ("sae-llama-3-8b-32x", "meta-llama/Meta-Llama-3-8B"),
        )
    ),
    *(
        Release(
            f"mwhanna-qwen3-{name}",
            f"mwhanna/qwen3-{name}",
            "circuit_tracer",
            f"qwen3-{name.split('-')[0]}",
            "blocks.{layer}.mlp.hook_in",
            path=r"layer_(?P<layer>\d+)",
            example="layer_12",
            file=".safetensors",
            target_site=_MLP,
            prepends_bos=False,
        )
        for name in _MWHANNA
    ),
    *(
        Release(
            f"{name}-andyrdt",
            f"andyrdt/saes-{name}",
            "dictionary_learning",
            model,
            _RESID,
            path=r"resid_post_layer_(?P<layer>\d+)/trainer_\d+",
            example="resid_post_layer_7/trainer_1",
            prepends_bos=False,
        )
        for name, model in _ANDYRDT.items()
    ),
    *(
        Release(
            f"goodfire-{model.lower()}",
            f"Goodfire/{model}-SAE-l{layer}",
            *("goodfire", f"meta-llama/{model}", _RESID),
            path=rf"{re.escape(model)}-SAE-l(?P<layer>{layer})",
            example=f"{model}-SAE-l{layer}",
            file=ending,
        )
        for model, layer, ending in (
            ("Llama-3.1-8B-Instruct", 19, ".pth"),
            ("Llama-3.3-70B-Instruct", 50, ".pt"),
        )
    ),
)
"""Every release."""
