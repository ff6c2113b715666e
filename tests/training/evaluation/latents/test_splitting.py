"""Feature splitting and absorption, on dictionaries in which they are planted."""

import pytest
import torch
from torch import Tensor

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.config import JumpReLUConfig
from sparsteer.training.data.cache.held_out_rows import HeldOutRows
from sparsteer.training.data.cache.shards import EncodedRows
from sparsteer.training.evaluation.latents.absorption import absorption
from sparsteer.training.evaluation.latents.first_letters import (
    LETTERS,
    LetterRows,
    first_letters,
    letter_probe,
    letter_rows,
)
from sparsteer.training.evaluation.latents.prefix_view import PrefixView
from sparsteer.training.evaluation.latents.splitting import splitting

WORDS, TIMES = 6, 8
N_LETTERS = len(LETTERS)
N_TOKENS = N_LETTERS * WORDS
WIDTH = N_LETTERS + N_TOKENS


def thresholded(encoder: Tensor, decoder: Tensor, threshold: float = 0.5) -> SparseAutoencoder:
    config = JumpReLUConfig(encoder.shape[1], len(encoder), fixed_thresholds=True)
    sae = SparseAutoencoder(config)
    with torch.no_grad():
        sae.W_enc.copy_(encoder)
        sae.W_dec.copy_(torch.nn.functional.normalize(decoder, dim=-1))
        sae.get_buffer("threshold").fill_(threshold)
    return sae


def test_a_split_latent_is_found_and_its_parts_fire_inside_it() -> None:
    """Coordinate 0 is one latent of the small dictionary, and two of the large: with coordinate 4
    beside it, and without; the other coordinates are the same in both, but for one that is new."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(4000, 8, generator=generator) < 0.2).float()
    rows[:, 4] *= rows[:, 0]
    eye = torch.eye(8)
    small = thresholded(eye[:4], eye[:4])
    with_4, without_4 = eye[0] + eye[4], eye[0] - eye[4]
    large_encoder = torch.stack([0.5 * with_4, without_4, *eye[1:4], eye[6]])
    large_decoder = torch.stack([eye[0] + 0.5 * eye[4], eye[0], *eye[1:4], eye[6]])
    large = thresholded(large_encoder, large_decoder, 0.7)
    found = splitting(small, large, rows)
    assert (found["parents"], found["children"]) == (4, 6)
    assert found["found"] == pytest.approx(5 / 6)
    assert found["parents_with"] == {"0": 0, "1": 0.75, "2": 0.25, "3": 0, "4_or_more": 0}
    assert found["contained"]["mean"] == 1
    assert found["contained_by_chance"]["mean"] < 1
    none = splitting(small, large, rows, least_cosine=1.1)
    assert none["found"] == 0 and none["contained"]["mean"] is None
    assert none["parents_with"]["0"] == 1


def test_the_same_dictionary_is_not_split() -> None:
    rows = torch.rand(500, 6)
    sae = thresholded(torch.eye(6), torch.eye(6))
    order = torch.randperm(6)
    found = splitting(sae, thresholded(torch.eye(6)[order], torch.eye(6)[order]), rows)
    assert found["parents_with"]["1"] == 1 and found["contained"]["mean"] == 1
    assert found["cosine"]["mean"] == pytest.approx(1)


def test_of_a_nested_dictionary_what_is_behind_the_prefix_is_compared() -> None:
    """Latents 3 and 4 are near the first one, 5 is near none."""
    eye = torch.eye(6)
    rows_of_decoder = torch.stack([*eye[:3], eye[0] + 0.2 * eye[3], eye[0] + 0.2 * eye[4], eye[5]])
    whole = thresholded(rows_of_decoder, rows_of_decoder)
    found = splitting(PrefixView(whole, 3), whole, torch.rand(400, 6))
    assert (found["parents"], found["children"]) == (3, 3)
    assert found["found"] == pytest.approx(2 / 3)
    assert found["parents_with"]["2"] == pytest.approx(1 / 3)
    assert found["parents_with"]["0"] == pytest.approx(2 / 3)


def test_what_does_not_compare_or_fire_is_refused() -> None:
    one, other = thresholded(torch.eye(3), torch.eye(3)), thresholded(torch.eye(4), torch.eye(4))
    with pytest.raises(InputError, match="widths 3 and 4"):
        splitting(one, other, torch.ones(5, 3))
    with pytest.raises(InputError, match="no latent"):
        splitting(one, one, torch.zeros(5, 3))


@pytest.fixture(scope="module")
def words() -> LetterRows:
    """Rows of a coordinate for the letter and one for the word, 8 words of each letter."""
    generator = torch.Generator().manual_seed(3)
    token_N = torch.arange(N_TOKENS).repeat(TIMES)
    letter_N = token_N // WORDS
    rows_ND = 0.01 * torch.randn(len(token_N), WIDTH, generator=generator)
    number_N = torch.arange(len(token_N))
    rows_ND[number_N, letter_N] += 1
    rows_ND[number_N, N_LETTERS + token_N] += 1
    test_T = torch.rand(N_TOKENS, generator=generator) < 0.5
    return LetterRows(rows_ND, token_N, letter_N, test_T[token_N])


def first_words() -> Tensor:
    """The coordinates of the first word of every letter."""
    return N_LETTERS + WORDS * torch.arange(N_LETTERS)


def test_a_word_that_another_latent_has_taken_is_absorbed(words: LetterRows) -> None:
    probe = letter_probe(words)
    assert probe.f1.nan_to_num(1).min() == 1
    eye = torch.eye(WIDTH)
    letters, taken = eye[:N_LETTERS], eye[first_words()]
    absorbing = thresholded(
        torch.cat([letters - taken, taken]), torch.cat([letters, letters + taken])
    )
    found = absorption(absorbing, words, probe)
    is_taken_N = words.token % WORDS == 0
    right_N = words.test & (words.letter == probe.predicted)
    right_N &= torch.isin(
        words.letter, torch.tensor([LETTERS.index(letter) for letter in found["by_letter"]])
    )
    expected = float((is_taken_N & right_N).sum() / right_N.sum())
    assert found["rate"] == pytest.approx(expected) and 0.05 < expected < 0.25
    assert found["silent_rate"] == pytest.approx(expected)
    assert found["by_chance"] < 0.3 * expected and found["standard_error"] > 0
    assert found["why"] == "" and len(found["letters"]) >= 20
    order = torch.randperm(2 * N_LETTERS, generator=torch.Generator().manual_seed(1))
    permuted = thresholded(absorbing.W_enc.detach()[order], absorbing.W_dec.detach()[order])
    assert absorption(permuted, words, probe)["rate"] == pytest.approx(expected)


def test_letters_with_a_latent_of_their_own_are_not_absorbed(words: LetterRows) -> None:
    sae = thresholded(torch.eye(WIDTH), torch.eye(WIDTH))
    found = absorption(sae, words, letter_probe(words))
    assert found["rate"] == 0 and found["silent_rate"] == 0
    for letter, values in found["by_letter"].items():
        assert values["main"] == [LETTERS.index(letter)] and values["main_f1"] == 1


def test_without_a_probe_nothing_is_said(words: LetterRows) -> None:
    noise = LetterRows(torch.randn(words.rows.shape), words.token, words.letter, words.test)
    found = absorption(thresholded(torch.eye(WIDTH), torch.eye(WIDTH)), noise, letter_probe(noise))
    assert found["rate"] is None and found["by_chance"] is None and found["letters"] == ""
    assert "probe" in found["why"]


def test_of_text_without_words_nothing_is_said(words: LetterRows) -> None:
    none = LetterRows(*(column[:0] for column in vars(words).values()))
    probe = letter_probe(none)
    assert probe.f1.isnan().all()
    found = absorption(thresholded(torch.eye(WIDTH), torch.eye(WIDTH)), none, probe)
    assert found["rate"] is None and set(found["probe_f1"].values()) == {None}


def test_without_latents_of_letters_nothing_is_said(words: LetterRows) -> None:
    only_words = torch.eye(WIDTH)[N_LETTERS:]
    found = absorption(thresholded(only_words, only_words), words, letter_probe(words))
    assert found["rate"] is None and "latents of their own" in found["why"]
    assert found["letters_without_latents"] == found["letters"] != ""


def test_letters_of_tokens_that_begin_a_word() -> None:
    names = ["\u0120the", "\u2581Apple", "the", "\u0120a", "\u01201st", "\u0120\u00e9a", ""]
    assert first_letters(names).numpy().tolist() == [19, 0, -1, -1, -1, -1, -1]


def test_rows_of_letters_share_no_token_between_the_sides() -> None:
    tokens = torch.randint(0, 50, (3000,), generator=torch.Generator().manual_seed(0))
    letters_V = torch.arange(50) % N_LETTERS
    letters_V[::7] = -1
    kept = torch.rand(3000) < 0.9
    number = torch.arange(3000)
    rows = HeldOutRows(
        "site",
        EncodedRows(number[:, None].float()),
        tokens[None],
        torch.ones(1, 3000, dtype=torch.bool),
        torch.zeros(3000, dtype=torch.int64),
        number,
        number,
        kept,
    )
    found = letter_rows(rows, letters_V, seed=0)
    places = found.rows[:, 0].long()
    assert kept[places].all() and torch.equal(tokens[places], found.token)
    assert torch.equal(letters_V[found.token], found.letter) and (found.letter >= 0).all()
    assert torch.bincount(found.token).max() <= 20
    assert not set(found.token[found.test].numpy()) & set(found.token[~found.test].numpy())
    again = letter_rows(rows, letters_V, seed=0)
    assert torch.equal(again.rows, found.rows)
