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
_ATTN = "blocks.{layer}.hook_attn_out"
_MLP = "blocks.{layer}.hook_mlp_out"
_MLP_IN = "blocks.{layer}.mlp.hook_in"
_NORMALIZED = "blocks.{layer}.ln2.hook_normalized"
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


def _gemma_scope(name: str, model: str, kind: str, example: str) -> Release:
    return Release(
        f"gemma-scope-{name}-{kind}",
        f"google/gemma-scope-{name}-{kind}",
        *("gemma_scope", f"google/{model}", _GEMMA_KINDS[kind][1] or _NORMALIZED),
        example=f"layer_{example}",
        file="/params.npz",
        target_site=_MLP if kind == "transcoders" else None,
    )


def _gemma_scope_2(size: str, layer: int, tuned: str, kind: str, suffix: str) -> Release:
    folder, site = _GEMMA_KINDS[kind]
    model = "270m" if (size, tuned) == ("270m", "pt") else f"{size}-{tuned}"
    affine = "_affine" if kind == "transcoders" else ""
    return Release(
        f"gemma-scope-2-{size}-{tuned}-{kind}{suffix and '-all'}",
        f"google/gemma-scope-2-{size}-{tuned}",
        *("gemma_scope", f"google/gemma-3-{model}", site or _MLP_IN),
        example=f"layer_{layer}_width_16k_l0_small{affine}",
        folder=f"{folder}{suffix}/",
        target_site=_MLP if kind == "transcoders" else None,
    )


def _llama_scope(kind: str, width: str, site: str) -> Release:
    letters = kind.upper()
    return Release(
        f"llama_scope_lx{kind}_{width}",
        f"fnlp/Llama3_1-8B-Base-LX{letters}-{width}",
        *("llama_scope", "meta-llama/Llama-3.1-8B", site),
        path=rf"Llama3_1-8B-Base-L(?P<layer>\d+){letters}-{width}",
        example=f"Llama3_1-8B-Base-L15{letters}-{width}",
        target_site=_MLP if kind == "tc" else None,
    )


def _qwen_scope(model: str, width: str, l0: int) -> Release:
    return Release(
        f"qwen-scope-{model.removeprefix('Qwen').lower()}-w{width.lower()}-l{l0}",
        f"Qwen/SAE-Res-{model}-W{width}-L0_{l0}",
        *("qwen_scope", f"Qwen/{model}", _RESID, r"layer(?P<layer>\d+)", "layer12"),
        file=".sae.pt",
        prepends_bos=False,
    )


def _linears(publisher: str, hub_name: str, layer: int, file: str) -> Release:
    model, goodfire = hub_name.split("/")[1], publisher == "Goodfire"
    return Release(
        f"goodfire-{model.lower()}" if goodfire else f"{model.lower()}-{publisher}",
        f"{publisher}/{model}-SAE-l{layer}",
        *("goodfire", hub_name, _RESID if goodfire else _RESID_PRE),
        path=rf"{re.escape(model)}-SAE-l(?P<layer>{layer})",
        example=f"{model}-SAE-l{layer}",
        file=file,
    )


_ANY_SITE = r"(?:.*/)?(?P<site>blocks\.\d+\.hook_\w+?)(?:_\d+)?"
_GEMMA_KINDS = {
    "res": ("resid_post", _RESID),
    "att": ("attn_out", "blocks.{layer}.attn.hook_z"),
    "mlp": ("mlp_out", _MLP),
    "transcoders": ("transcoder", None),
}
"""Folders of Gemma Scope 2, and sites; its transcoders read another site than those before it."""
_GEMMA_2 = [
    ("2b-pt", "gemma-2-2b", "res", "12/width_16k/average_l0_82"),
    ("2b-pt", "gemma-2-2b", "att", "12/width_16k/average_l0_85"),
    ("2b-pt", "gemma-2-2b", "mlp", "12/width_16k/average_l0_108"),
    ("2b-pt", "gemma-2-2b", "transcoders", "12/width_16k/average_l0_6"),
    ("9b-pt", "gemma-2-9b", "res", "20/width_16k/average_l0_68"),
    ("9b-pt", "gemma-2-9b", "att", "20/width_16k/average_l0_76"),
    ("9b-pt", "gemma-2-9b", "mlp", "20/width_16k/average_l0_108"),
    ("9b-it", "gemma-2-9b-it", "res", "20/width_16k/average_l0_91"),
    ("27b-pt", "gemma-2-27b", "res", "22/width_131k/average_l0_82"),
]
_GEMMA_3_LAYERS = {"270m": 9, "1b": 13, "4b": 17, "12b": 24, "27b": 31}
_NO_RELEASE = re.compile("gemma-scope-2-27b-pt-(att|att-all|mlp|mlp-all|transcoders)")
_QWENS = {
    "Qwen3-1.7B-Base": ("32K", "32K"),
    "Qwen3-8B-Base": ("64K", "64K"),
    "Qwen3-30B-A3B-Base": ("32K", "128K"),
    "Qwen3.5-2B-Base": ("32K", "32K"),
    "Qwen3.5-9B-Base": ("64K", "64K"),
    "Qwen3.5-27B": ("80K", "80K"),
    "Qwen3.5-35B-A3B-Base": ("32K", "128K"),
}
"""The widths with L0 50 and 100."""
_GPT2_OAI = [
    *((kind, "32k", "") for kind in ("attn-out", "mlp-out", "resid-mid")),
    ("resid-post", "32k", ".pt"),  # its folders end so
    *((kind, "128k", "") for kind in ("attn-out", "mlp-out", "resid-mid", "resid-post")),
]
_MWHANNA = [
    *(f"{size}-transcoders-lowl0" for size in ("0.6b", "1.7b", "14b")),
    *(f"{size}-transcoders" for size in ("4b", "8b", "14b")),
]
_ANDYRDT = {
    "llama-3.1-8b-instruct": ("meta-llama/Llama-3.1-8B-Instruct", 1),
    "qwen2.5-7b-instruct": ("Qwen/Qwen2.5-7B-Instruct", 1),
    "gpt-oss-20b": ("openai/gpt-oss-20b", 0),
}

_ALL = (
    *(_gemma_scope(*one) for one in _GEMMA_2),
    *(
        _gemma_scope_2(size, layer, tuned, kind, suffix)
        for size, layer in _GEMMA_3_LAYERS.items()
        for tuned in ("pt", "it")
        for kind in _GEMMA_KINDS
        for suffix in ("", "_all")
    ),
    *(
        _llama_scope(kind, width, site)
        for kind, site in (("r", _RESID), ("a", _ATTN), ("m", _MLP), ("tc", _NORMALIZED))
        for width in ("8x", "32x")
    ),
    Release(
        *("llama_scope_r1_distill", "fnlp/Llama-Scope-R1-Distill", "llama_scope"),
        *("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", _RESID, r".+/L(?P<layer>\d+)R"),
        example="400M-Slimpajama-400M-OpenR1-Math-220k/L15R",
    ),
    *(
        _qwen_scope(model, width, l0)
        for model, widths in _QWENS.items()
        for width, l0 in zip(widths, (50, 100), strict=True)
    ),
    _linears("Goodfire", "meta-llama/Llama-3.1-8B-Instruct", 19, ".pth"),
    _linears("Goodfire", "meta-llama/Llama-3.3-70B-Instruct", 50, ".pt"),
    _linears("qresearch", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 19, ".pt"),
    Release(
        *("gpt2-small-res-jb", "jbloom/GPT2-Small-SAEs-Reformatted", "saelens", "gpt2-small"),
        *(_NAMED_SITE, _ANY_SITE, "blocks.8.hook_resid_pre"),
    ),
    *(
        Release(
            f"gpt2-small-{kind}-v5-{width}",
            f"jbloom/GPT2-Small-OAI-v5-{width}-{kind}-SAEs",
            *("saelens", "gpt2-small", f"blocks.{{layer}}.hook_{kind.replace('-', '_')}"),
            path=rf"v5_{width}_layer_(?P<layer>\d+){ending}",
            example=f"v5_{width}_layer_8{ending}",
        )
        for kind, width, ending in _GPT2_OAI
    ),
    *(
        Release(
            f"pythia-70m-deduped-{kind}-sm",
            f"ctigges/pythia-70m-deduped__{kind}-sm_processed",
            *("saelens", "pythia-70m-deduped", site),
            *(rf"(?P<layer>\d+)-{kind}-sm", f"3-{kind}-sm"),
        )
        for kind, site in (("res", _RESID), ("att", _ATTN), ("mlp", _MLP))
    ),
    *(
        Release(
            f"gemma-{name}-res-matryoshka-dc",
            f"chanind/gemma-{name}-batch-topk-matryoshka-saes-w-32k-l0-{l0}",
            *("saelens", f"gemma-{model}", _NAMED_SITE, _ANY_SITE, example),
        )
        for name, model, l0, example in (
            ("2-2b", "2-2b", 40, "standard/blocks.12.hook_resid_post"),
            ("2-9b", "2-9b", 60, "blocks.20.hook_resid_post"),
            ("3-1b", "3-1b-pt", 40, "blocks.12.hook_resid_post"),
        )
    ),
    *(
        Release(
            *(name, f"EleutherAI/{name}", "sparsify", model, _RESID),
            *(r"layers\.(?P<layer>\d+)", "layers.3"),
            prepends_bos=False,
        )
        for name, model in (
            ("sae-pythia-70m-32k", "EleutherAI/pythia-70m"),
            ("sae-llama-3-8b-32x", "meta-llama/Meta-Llama-3-8B"),
        )
    ),
    *(
        Release(
            *(f"mwhanna-qwen3-{name}", f"mwhanna/qwen3-{name}", "circuit-tracer"),
            *(f"qwen3-{name.split('-')[0]}", _MLP_IN, r"layer_(?P<layer>\d+)", "layer_12"),
            file=".safetensors",
            target_site=_MLP,
            prepends_bos=False,
        )
        for name in _MWHANNA
    ),
    *(
        Release(
            *(f"{name}-andyrdt", f"andyrdt/saes-{name}", "dictionary_learning", model, _RESID),
            path=r"resid_post_layer_(?P<layer>\d+)/trainer_\d+",
            example=f"resid_post_layer_7/trainer_{trainer}",
            prepends_bos=False,
        )
        for name, (model, trainer) in _ANDYRDT.items()
    ),
)
RELEASES = tuple(release for release in _ALL if not _NO_RELEASE.fullmatch(release.name))
"""Every release."""
