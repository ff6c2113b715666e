"""Which tokens of a pass an intervention's `positions` name."""

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from .gates.scores import last_prompt_column
from .spec import Positions
from .token_watch import SeenTokens


def positions_of(positions: Positions, seen: SeenTokens) -> Bool[Tensor, "B L"] | None:
    """True at the tokens that are meant; None where all are.

    What a pass reads that begins texts is prompt, up to `seen.n_prompt` columns. A pass that goes
    on from a cache and reads several columns reads the prompt of a chat's next turn: the messages
    since the last one that the model wrote. One that reads a single column reads what the model
    wrote. So in a pass that reads an earlier turn anew, its answer belongs to the prompt.
    """
    if positions == "all":
        return None
    n_columns = seen.tokens_BL.shape[1]
    n_prompt = seen.n_prompt
    if seen.continues and n_columns > 1:
        n_prompt = n_columns
    columns_L = torch.arange(n_columns, device=seen.tokens_BL.device)
    in_prompt_L = columns_L < n_prompt
    if positions == "last" and n_prompt:
        last_B = last_prompt_column(seen.positions_BL[:, :n_prompt])
        return columns_L == rearrange(last_B, "b -> b 1")
    chosen_L = ~in_prompt_L if positions == "generated" else in_prompt_L
    return chosen_L.expand_as(seen.tokens_BL)
