"""Feature absorption by first letters, as far as a small model allows.

A latent for "begins with s" may be silent on "short", and a latent for "short" carry the direction
in its place (Chanin et al., arXiv 2409.14507). The published measure prompts models of one to two
billion parameters to spell; this one reads the letter from the activations of plain text by a
linear probe. Its numbers are not those of the published one, and where a model has no good probe of
a letter it says nothing of that letter.
"""

import random
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....sae.autoencoder import SparseAutoencoder
from ..standard_errors import ratio_standard_error
from .first_letters import LETTERS, LetterProbe, LetterRows, f1_of

LEAST_F1 = 0.6
"""Of the probe of a letter that is looked at, as SAEBench asks."""
LEAST_LETTERS = 10
"""With so many or nothing is said of the dictionary."""
_LEAST_MAIN_F1 = 0.3
"""Of a letter's main latents: below it there is no latent of the letter from which another could
take a word away."""
_LEAST_GAIN = 0.03
_MOST_MAIN = 10
_CANDIDATES = 20
_LEAST_COSINE = 0.025
_LEAST_SHARE = 0.4
_ROWS_AT_ONCE = 1024


@torch.no_grad()
def absorption(
    sae: SparseAutoencoder, given: LetterRows, probe: LetterProbe, *, seed: int = 0
) -> dict[str, Any]:
    """How often a letter's latents are silent on a word that has it, and another latent carries it.

    A letter's main latents are chosen on the rows for fitting: the latent whose firing tells the
    letter best by F1, and further ones as long as "one of them fires" gains more than 0.03, at most
    10. Then, of the rows for testing on which the probe sees the letter and is right, those are
    counted on which all main latents are silent and one other latent, with a decoder row that has a
    cosine of 0.025 or more with the probe, makes up 0.4 or more of all active latents' projection
    on the probe. Thresholds of F1, gain, cosine and share are SAEBench's; that the share is of the
    active latents' projection is this measure's own.

    Args:
        sae: the autoencoder.
        given: rows of known letters.
        probe: of these rows.
        seed: of the letters that are exchanged for `by_chance`.

    Returns:
        `probe_f1` by letter, None where there was nothing to learn; `letters`: those whose probe
        has an F1 of 0.6 or more; `letters_without_latents` of these, whose main latents have an F1
        below 0.3, which are left out; and of the others, by letter, `main` (latents), `main_f1`
        on the rows for testing, `rows`, `silent` and `absorbed`; `rate`, absorbed by rows in all,
        with its `standard_error` over tokens; `silent_rate`; and `by_chance`, the rate where the
        probe's direction is that of another letter. With fewer than 10 letters `rate`,
        `silent_rate` and `by_chance` are None and `why` says so; else `why` is empty.
    """
    found: dict[str, Any] = {
        "probe_f1": {
            letter: None if f1 != f1 else f1
            for letter, f1 in zip(LETTERS, probe.f1.numpy().tolist(), strict=True)
        },
        "letters": [n for n, f1 in enumerate(probe.f1.numpy().tolist()) if f1 >= LEAST_F1],
    }
    letters: list[int] = found["letters"]
    found["letters"] = "".join(LETTERS[n] for n in letters)
    nothing = {"rate": None, "standard_error": None, "silent_rate": None, "by_chance": None}
    too_few = f"fewer than {LEAST_LETTERS} letters have"
    if len(letters) < LEAST_LETTERS:
        return {
            **found,
            "letters_without_latents": "",
            "by_letter": {},
            **nothing,
            "why": f"{too_few} a probe with an F1 of {LEAST_F1}, so the model does not show them",
        }
    indices_NM, values_NM = _codes(sae, given.rows)
    main = {
        letter: _main_latents(indices_NM, values_NM, given, letter, sae.config.n_latents)
        for letter in letters
    }
    W_dec = torch.nn.functional.normalize(sae.W_dec.float(), dim=-1).cpu()
    cosines_FL = W_dec @ probe.directions.T
    projections_FL = sae.W_dec.float().cpu() @ probe.directions.T
    shuffled = random.Random(seed).sample(letters, len(letters))
    # Each letter takes the direction of the one behind it in a random order, never its own.
    another = dict(zip(shuffled, [*shuffled[1:], shuffled[0]], strict=True))
    by_letter: dict[str, dict[str, Any]] = {}
    without: list[str] = []
    tokens: list[Tensor] = []
    counts: list[Tensor] = []
    for letter, latents in main.items():
        fires_N = _fires(indices_NM, values_NM, latents).any(-1)
        main_f1 = f1_of(fires_N[given.test], given.letter[given.test] == letter)
        if main_f1 < _LEAST_MAIN_F1:
            without.append(LETTERS[letter])
            continue
        right_N = given.test & (given.letter == letter) & (probe.predicted == letter)
        silent_N = right_N & ~fires_N
        codes = indices_NM[silent_N], values_NM[silent_N]
        absorbed, chance = (
            _carried(*codes, cosines_FL[:, by], projections_FL[:, by], latents)
            for by in (letter, another[letter])
        )
        rows = right_N.nonzero()[:, 0]
        counts_R3 = torch.zeros(len(rows), 3, dtype=torch.float64)
        counts_R3[silent_N[rows], 0] = 1
        counts_R3[silent_N[rows], 1] = absorbed.double()
        counts_R3[silent_N[rows], 2] = chance.double()
        tokens.append(given.token[rows])
        counts.append(counts_R3)
        by_letter[LETTERS[letter]] = {
            "main": latents,
            "main_f1": main_f1,
            "rows": len(rows),
            "silent": int(silent_N.sum()),
            "absorbed": int(absorbed.sum()),
        }
    found |= {"letters_without_latents": "".join(without), "by_letter": by_letter}
    if len(by_letter) < LEAST_LETTERS:
        return {**found, **nothing, "why": f"{too_few} latents of their own in the dictionary"}
    counts_R3 = torch.cat(counts)
    silent_rate, rate, by_chance = (float(value) for value in counts_R3.mean(0))
    return {
        **found,
        "rate": rate,
        "standard_error": _error_over_tokens(counts_R3[:, 1], torch.cat(tokens)),
        "silent_rate": silent_rate,
        "by_chance": by_chance,
        "why": "",
    }


def _codes(
    sae: SparseAutoencoder, rows_ND: Float[Tensor, "N D"]
) -> tuple[Int[Tensor, "N M"], Float[Tensor, "N M"]]:
    """Indices and values of the rows' codes, all of one width."""
    parts = [sae.encode(x_BD.to(sae.W_dec.device)) for x_BD in torch.split(rows_ND, _ROWS_AT_ONCE)]
    width = max(part.indices.shape[1] for part in parts)

    def joined(tensors: list[Tensor]) -> Tensor:
        return torch.cat(
            [torch.nn.functional.pad(t, (0, width - t.shape[1])).cpu() for t in tensors]
        )

    return joined([part.indices for part in parts]), joined([part.values for part in parts])


def _fires(
    indices_NM: Int[Tensor, "N M"], values_NM: Float[Tensor, "N M"], latents: list[int]
) -> Bool[Tensor, "N C"]:
    """On which rows each of some latents fires."""
    place_F = torch.full((1 + max(int(indices_NM.max()), *latents),), len(latents))
    place_F[torch.tensor(latents)] = torch.arange(len(latents))
    place_NM = place_F[indices_NM].masked_fill(values_NM <= 0, len(latents))
    fires_NC = torch.zeros(len(indices_NM), len(latents) + 1, dtype=torch.bool)
    return fires_NC.scatter_(1, place_NM, True)[:, :-1]


def _main_latents(
    indices_NM: Int[Tensor, "N M"],
    values_NM: Float[Tensor, "N M"],
    given: LetterRows,
    letter: int,
    n_latents: int,
) -> list[int]:
    """The latents of a letter, by the rows for fitting."""
    fit_N = ~given.test
    is_letter_N = given.letter[fit_N] == letter
    indices_NM, values_NM = indices_NM[fit_N], values_NM[fit_N]
    used_NM = values_NM > 0
    with_letter_F = torch.bincount(
        indices_NM[is_letter_N][used_NM[is_letter_N]], minlength=n_latents
    )
    in_all_F = torch.bincount(indices_NM[used_NM], minlength=n_latents)
    f1_F = 2 * with_letter_F / (in_all_F + int(is_letter_N.sum())).clamp(min=1)
    candidates = f1_F.topk(min(_CANDIDATES, n_latents)).indices.numpy().tolist()
    chosen: list[int] = [candidates[0]]
    best = float(f1_F[candidates[0]])
    fires_NC = _fires(indices_NM, values_NM, candidates)
    said_N = fires_NC[:, 0]
    fires = {n: fires_NC[:, place] for place, n in enumerate(candidates) if place}
    while fires and len(chosen) < _MOST_MAIN:
        gained = {n: f1_of(said_N | fires_N, is_letter_N) for n, fires_N in fires.items()}
        latent = max(gained, key=lambda n: gained[n])
        if gained[latent] - best <= _LEAST_GAIN:
            break
        best = gained[latent]
        said_N = said_N | fires.pop(latent)
        chosen.append(latent)
    return chosen


def _carried(
    indices_NM: Int[Tensor, "N M"],
    values_NM: Float[Tensor, "N M"],
    cosines_F: Float[Tensor, "F"],
    projections_F: Float[Tensor, "F"],
    main: list[int],
) -> Tensor:
    """On which rows one latent beside the main ones carries the direction."""
    parts_NM = values_NM.float() * projections_F[indices_NM]
    total_N = parts_NM.sum(-1)
    may_NM = (cosines_F[indices_NM] >= _LEAST_COSINE) & ~torch.isin(indices_NM, torch.tensor(main))
    if not parts_NM.numel():
        return torch.zeros(len(parts_NM), dtype=torch.bool)
    largest_N = parts_NM.masked_fill(~may_NM, 0).amax(-1)
    return (total_N > 0) & (largest_N >= _LEAST_SHARE * total_N)


def _error_over_tokens(absorbed_R: Float[Tensor, "R"], token_R: Int[Tensor, "R"]) -> float | None:
    names, place_R = np.unique(token_R.numpy(), return_inverse=True)
    sums_2T = torch.zeros(2, len(names), dtype=torch.float64)
    both_2R = torch.stack([absorbed_R, torch.ones_like(absorbed_R)])
    sums_2T.index_add_(1, torch.as_tensor(place_R), both_2R)
    return ratio_standard_error(*sums_2T)
