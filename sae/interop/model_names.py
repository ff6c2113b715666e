"""Short names of language models, as files of other libraries give them, and what to load."""

from ..fetching.artifacts import ARTIFACTS

_OWNERS = {
    "pythia": "EleutherAI",
    "gpt-neo": "EleutherAI",
    "gpt-j": "EleutherAI",
    "gpt2": "openai-community",
    "gemma": "google",
    "Meta-Llama": "meta-llama",
    "Llama": "meta-llama",
    "Qwen": "Qwen",
    "Mistral": "mistralai",
}
"""Of names without an owner, by their beginning."""

_SPECIAL = {
    "gpt2-small": "openai-community/gpt2",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-14b": "Qwen/Qwen3-14B",
}


def loadable_name(name: str) -> str:
    """The name by which `LanguageModel.load` finds a model that a file calls `name`: the artifact
    of this package that the hub calls so, else the hub's name, with its owner.

    Short names are those of TransformerLens; one that is unknown stays as it is.
    """
    if name in _SPECIAL:
        name = _SPECIAL[name]
    elif "/" not in name:
        owner = next((own for start, own in _OWNERS.items() if name.startswith(start)), None)
        name = f"{owner}/{name}" if owner else name
    named = (key for key, artifact in ARTIFACTS.items() if artifact.hub_name == name)
    return next(named, name)


def name_elsewhere(model: str) -> str:
    """The name that other tools know of a model: an artifact's is that on the hub."""
    artifact = ARTIFACTS.get(model)
    return artifact.hub_name if artifact and artifact.hub_name else model
