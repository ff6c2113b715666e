"""How many latents share a concept's direction, where it was split on purpose."""

import math

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.loading import LoadedRun
from sparsteer.steering.widths.splitting import ReferenceLatent, difference_of_means, splitting

from ...tiny_runs import SITE, random_topk

D = 24


def basis() -> Float[Tensor, "D D"]:
    rows_DD = torch.randn(D, D, dtype=torch.float64)
    return torch.linalg.svd(rows_DD)[0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped


def parts_of(concept_D: Tensor, others_ND: Tensor, cosine: float) -> Float[Tensor, "N D"]:
    """Unit rows at one cosine to a direction, each leaning towards a direction of its own."""
    return cosine * concept_D + math.sqrt(1 - cosine**2) * others_ND


def test_a_split_latent_is_counted_in_the_wider_dictionary() -> None:
    rows_DD = basis()
    concept_D, narrow_FD = rows_DD[0], rows_DD[:6]
    wide_GD = torch.cat([rows_DD[1:9], parts_of(concept_D, rows_DD[9:13], 0.8)])
    found = splitting(
        wide_GD,
        8,
        [8, 9, 10, 11],
        reference=ReferenceLatent(narrow_FD, 0),
        difference_D=3 * concept_D,
        least_cosine=0.6,
    )
    assert found.reference_best.count == 4 and set(found.reference_best.latents) == {8, 9, 10, 11}
    assert found.reference_best.nearest_cosine == pytest.approx(0.8, abs=1e-6)
    # Of the six narrow latents one is split into four, and the other five are there again.
    assert found.reference_best.by_chance == pytest.approx(9 / 6)
    # Two parts have cosine .8 * .8 = .64 with each other.
    assert found.own_best.count == 3
    assert found.difference.count == 4 and found.difference.by_chance is None
    assert found.best_cosine == pytest.approx(0.8)
    # The parts lean in four orthogonal directions, which their mean halves.
    assert found.group_cosine == pytest.approx(0.8 / math.sqrt(0.64 + 0.36 / 4))


def test_the_narrowest_dictionary_is_its_own_reference() -> None:
    rows_DD = basis()
    found = splitting(rows_DD[:7], 2, [2], reference=None, difference_D=-rows_DD[2])
    assert found.reference_best == found.own_best and found.own_best.count == 0
    assert found.own_best.by_chance == 0 and found.difference.count == 0
    assert found.best_cosine == pytest.approx(-1)


def test_the_order_and_the_lengths_of_latents_say_nothing() -> None:
    rows_FD = torch.randn(31, D, dtype=torch.float64)
    order = torch.randperm(31)
    scaled_FD = (rows_FD * (0.5 + torch.rand(31, 1, dtype=torch.float64)))[order]
    place = {int(old): new for new, old in enumerate(order)}
    reference = ReferenceLatent(torch.randn(5, D, dtype=torch.float64), 3)
    difference_D = torch.randn(D, dtype=torch.float64)
    one, other = (
        splitting(
            rows,
            best,
            group,
            reference=reference,
            difference_D=difference_D,
            least_cosine=0.2,
        )
        for rows, best, group in (
            (rows_FD, 4, [4, 9, 30]),
            (scaled_FD, place[4], [place[9], place[30], place[4]]),
        )
    )
    assert one.own_best.count == other.own_best.count > 0
    assert {place[latent] for latent in one.own_best.latents} == set(other.own_best.latents)
    assert one.group_cosine == pytest.approx(other.group_cosine)
    assert one.reference_best.count == other.reference_best.count


def test_no_direction_is_refused() -> None:
    rows_FD = torch.randn(5, D)
    with pytest.raises(InputError, match="the direction is 0"):
        splitting(rows_FD, 0, [0], reference=None, difference_D=torch.zeros(D))


def test_the_difference_of_means_is_that_of_each_text_alone(tiny_model: LanguageModel) -> None:
    loaded = LoadedRun(tiny_model, tiny_model.site(SITE), random_topk(tiny_model, 40))
    positive, negative = ["a bad word", "worse"], ["it is fine today", "yes, a b c"]
    found_D = difference_of_means(loaded, positive, negative, batch_size=2)

    def mean_of(texts: list[str]) -> Tensor:
        rows: list[Tensor] = []
        for text in texts:
            ids = [tiny_model.bos_id or 0, *tiny_model.tokenize(text)]
            acts_LD = loaded.site.read(torch.tensor([ids]))[0]
            content_L = ~tiny_model.excluded_tokens(torch.tensor([ids]))[0]
            rows.append(acts_LD[content_L].double().mean(0))
        return torch.stack(rows).mean(0)

    torch.testing.assert_close(found_D, mean_of(positive) - mean_of(negative), rtol=0, atol=1e-5)
    torch.testing.assert_close(-found_D, difference_of_means(loaded, negative, positive))


def test_texts_without_content_have_no_mean(tiny_model: LanguageModel) -> None:
    loaded = LoadedRun(tiny_model, tiny_model.site(SITE), random_topk(tiny_model, 40))
    with pytest.raises(InputError, match="no negative text"):
        difference_of_means(loaded, ["some words"], [""])
