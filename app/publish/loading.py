"""The part of a model card that loads the autoencoder: here, in SAELens, and with torch alone."""

from collections.abc import Iterator

from ...sae.interop.push import SAELENS
from .source import Published

_KEPT = {
    "topk": (
        "top = pre.topk({k})\n"
        "latents = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())"
    ),
    "standard": "latents = pre.relu()",
    "jumprelu": 'latents = pre * (pre > weights["threshold"])',
}
"""How an architecture of SAELens keeps latents, in torch."""


def loading(published: Published, no_saelens: str | None) -> Iterator[str]:
    """Paragraphs and code, in Markdown."""
    repository, width = published.config.repo, published.sae.config.d_model
    yield "### sparsteer"
    yield _python(
        "import torch\nfrom sparsteer import SparseAutoencoder\n\n"
        f'sae = SparseAutoencoder.from_pretrained("{repository}")\n'
        f"x = torch.randn(4, {width})  # activations as the language model computes them\n"
        "codes = sae.encode(x)  # the latents that are active, and how much\n"
        "x_hat = sae.decode(codes)"
    )
    yield "### SAELens"
    if no_saelens is not None:
        yield f"There is no folder for SAELens: {no_saelens}."
        yield "### PyTorch alone"
        yield (
            "The rows of `W_dec` are the directions of the latents. How latents are chosen stands "
            "in the documentation of sparsteer."
        )
        yield _python(
            "from huggingface_hub import hf_hub_download\n"
            "from safetensors.torch import load_file\n\n"
            f'weights = load_file(hf_hub_download("{repository}", "sae.safetensors"))\n'
            'print(weights["W_dec"].shape)'
        )
        return
    scale = float(published.sae.decoder_scale)
    yield (
        f"In `{SAELENS}/` lies the same autoencoder as SAELens 6 reads it. What a latent is there "
        f"is that of sparsteer divided by {scale:.6g}, the scale of the activations."
    )
    yield _python(
        "from huggingface_hub import snapshot_download\nfrom sae_lens import SAE\n\n"
        f'folder = snapshot_download("{repository}", allow_patterns=["{SAELENS}/*"])\n'
        f'sae = SAE.load_from_disk(f"{{folder}}/{SAELENS}")'
    )
    config = published.sae.config
    keys, _ = published.sae.activation.saelens(published.sae)
    kept = _KEPT.get(str(keys["architecture"]))
    usual = config.apply_b_dec_to_input and config.normalize_activations == "none"
    if kept is None or config.transcoder or not usual:
        return
    yield "### PyTorch alone"
    yield _python(
        "import torch\nfrom huggingface_hub import hf_hub_download\n"
        "from safetensors.torch import load_file\n\n"
        f'file = hf_hub_download("{repository}", "{SAELENS}/sae_weights.safetensors")\n'
        "weights = load_file(file)\n"
        f"x = torch.randn(4, {width})  # activations as the language model computes them\n"
        'pre = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]\n'
        f"{kept.format(k=keys.get('k'))}\n"
        'x_hat = latents @ weights["W_dec"] + weights["b_dec"]'
    )


def _python(code: str) -> str:
    return f"```python\n{code}\n```"
