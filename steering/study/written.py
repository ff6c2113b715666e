"""What a language model wrote under one setting of a study."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Written:
    """The continuations of every prompt, all from the same random numbers as under any setting."""

    prompts: list[str]
    """P beginnings of texts, without what an arm puts before them."""
    prompt_tokens: list[list[int]]
    """The tokens of each, BOS included and without what an arm puts before them: what every arm's
    continuations are judged behind."""
    texts_PN: list[list[str]]
    """N continuations of each."""
    tokens_PN: list[list[list[int]]]
    """Their tokens."""
