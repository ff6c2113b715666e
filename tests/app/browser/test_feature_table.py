"""Which features are listed, and in which order."""

from typing import Any

import numpy as np
import pytest

from sparsteer.app.browser.feature_table import Wanted, listed
from sparsteer.sae import InputError
from sparsteer.steering.features.index import FeatureIndex
from sparsteer.steering.features.listing import interest
from sparsteer.steering.features.picks import Pick, Picks
from sparsteer.steering.labels.machine_label import MachineLabel

N = 400


def index_of(seed: int) -> FeatureIndex:
    """Statistics of random features, of which some never fired."""
    draw = np.random.default_rng(seed)
    rows = 10_000
    fired = draw.integers(0, 3000, N) * (draw.random(N) > 0.2)
    largest = (draw.random(N) * 9 + 1).astype(np.float32) * (fired > 0)
    statistics = {
        "feature": np.arange(N),
        "fired": fired,
        "density": fired / rows,
        "max_activation": largest,
        "mean_activation": largest * draw.random(N).astype(np.float32),
        "token_explained": draw.random(N),
    }
    return MadeUpIndex(statistics, rows)


class MadeUpIndex(FeatureIndex):
    """An index of statistics alone, without files."""

    def __init__(self, statistics: dict[str, np.ndarray], rows: int) -> None:
        self.statistics = statistics
        self.n_latents = len(statistics["fired"])
        self.manifest = {"rows": rows}


NOBODY = Picks("s")


def label_of(feature: int, text: str) -> MachineLabel:
    return MachineLabel(
        feature=feature,
        label=text,
        model="m",
        endpoint="local",
        method="x",
        detection=None,
        made="2026-01-01T00:00:00Z",
    )


@pytest.mark.parametrize("seed", range(3))
def test_by_interest_the_largest_first_and_only_what_fired(seed: int) -> None:
    index = index_of(seed)
    numbers = listed(index, NOBODY, {}, Wanted())
    values = interest(index)[numbers]
    assert (np.diff(values) <= 0).all()
    assert sorted(numbers) == np.flatnonzero(index.statistics["fired"]).tolist()
    reverse = listed(index, NOBODY, {}, Wanted(reverse=True))
    assert (np.diff(interest(index)[reverse]) >= 0).all()


@pytest.mark.parametrize("sort", ["density", "max_activation", "token_explained"])
def test_by_a_statistic(sort: Any) -> None:
    index = index_of(5)
    numbers = listed(index, NOBODY, {}, Wanted(sort=sort))
    assert (np.diff(index.statistics[sort][numbers]) <= 0).all()


def test_by_number_all_are_listed() -> None:
    index = index_of(6)
    assert listed(index, NOBODY, {}, Wanted(sort="number")).tolist() == list(range(N))
    reverse = listed(index, NOBODY, {}, Wanted(sort="number", reverse=True))
    assert reverse.tolist() == list(range(N))[::-1]


def test_a_range_of_densities() -> None:
    index = index_of(7)
    numbers = listed(index, NOBODY, {}, Wanted(least=5.0, most=20.0))
    density = index.statistics["density"]
    assert set(numbers.tolist()) == set(np.flatnonzero((density >= 0.05) & (density <= 0.2)))
    assert len(numbers)


def test_picks_stars_verdicts_and_labels() -> None:
    index = index_of(8)
    never = int(np.flatnonzero(index.statistics["fired"] == 0)[0])
    one, two, three = (int(n) for n in np.flatnonzero(index.statistics["fired"])[:3])
    picks = Picks(
        "s",
        (
            Pick(feature=one, label="Cats and dogs", starred=True),
            Pick(feature=two, verdict="reject"),
            Pick(feature=never),
        ),
    )
    machine = {one: label_of(one, "rain"), three: label_of(three, "CATS only")}

    def shown(**wanted: Any) -> set[int]:
        return set(listed(index, picks, machine, Wanted(**wanted)).tolist())

    assert shown(show="picked") == {one, two, never}
    assert shown(show="starred") == {one}
    assert shown(show="labeled") == {one, three}
    assert shown(show="picked", reviewed="yes") == {one, two}
    assert shown(show="picked", reviewed="no") == {never}
    assert not shown(show="unpicked") & {one, two, never}
    assert shown(label="cats") == {one, three}
    assert shown(label="rain") == set()  # a person's label stands before a machine's


def test_the_words_of_an_address_and_back() -> None:
    wanted = Wanted(sort="density", reverse=True, least=0.5, label="a & b", show="picked", page=3)
    words = dict(pair.split("=") for pair in wanted.query().replace("+", " ").split("&"))
    words["label"] = "a & b"
    assert Wanted.from_query(words) == wanted
    assert Wanted().query() == ""
    assert "page=2" in wanted.query(page=2)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"sort": "size"}, "size"),
        ({"show": "x"}, "x"),
        ({"reviewed": "maybe"}, "maybe"),
        ({"least": "a lot"}, "a lot"),
        ({"most": "101"}, "101"),
        ({"least": "nan"}, "nan"),
        ({"page": "0"}, "0"),
        ({"page": "-1"}, "-1"),
        ({"page": "9" * 40}, "999"),
    ],
)
def test_what_is_no_value_is_named(query: dict[str, str], names: str) -> None:
    with pytest.raises(InputError, match=names):
        Wanted.from_query(query)


def test_an_index_without_the_statistic() -> None:
    index = index_of(9)
    del index.statistics["token_explained"]
    with pytest.raises(InputError, match="built before"):
        listed(index, NOBODY, {}, Wanted(sort="token_explained"))
