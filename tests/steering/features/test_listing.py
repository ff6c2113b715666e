"""Features chosen by a rule that looks at no text, and the order in which they are listed."""

import numpy as np

from sparsteer.steering.features import FeatureIndex
from sparsteer.steering.features.listing import interest, spread_by_density

from .conftest import Setup


def test_features_are_spread_over_the_densities(setup: Setup) -> None:
    index = FeatureIndex.of_run(setup.run)
    density, fired = index.statistics["density"], index.statistics["fired"]
    bound = sorted(density)[-5]
    rare = sorted(
        (float(density[n]), n) for n in range(len(density)) if fired[n] and density[n] < bound
    )
    assert len(rare) > 12
    for number in (1, 4, 7):
        middles = [rare[int((part + 0.5) / number * len(rare))][1] for part in range(number)]
        assert spread_by_density(index, number, most_density=bound) == middles
    every = spread_by_density(index, 10_000, most_density=bound)
    assert every == [number for _, number in rare]
    assert spread_by_density(index, 3, most_density=0.0) == []


class MadeUpIndex(FeatureIndex):
    """An index of statistics alone, on a million rows, without files."""

    def __init__(self, statistics: dict[str, np.ndarray]) -> None:
        self.statistics = statistics
        self.manifest = {"rows": 1_000_000}


def interests(**statistics: list[float]) -> np.ndarray:
    """Of features with these statistics."""
    columns = {name: np.array(values) for name, values in statistics.items()}
    return interest(MadeUpIndex({**columns, "density": columns["fired"] / 1e6}))


def test_what_barely_fires_is_less_interesting_than_what_stands_out() -> None:
    """A latent whose every activation is just above the least one is strong by its own measure."""
    found = interests(
        fired=[20.0, 200.0, 200.0, 0.0],
        max_activation=[0.9, 8.0, 6.0, 0.0],
        mean_activation=[0.8, 4.0, 3.0, 0.0],
    )
    assert found[1] > found[2] > found[0] > found[3] == 0
    scaled = interests(
        fired=[20.0, 200.0, 200.0, 0.0],
        max_activation=[9.0, 80.0, 60.0, 0.0],
        mean_activation=[8.0, 40.0, 30.0, 0.0],
    )
    np.testing.assert_allclose(scaled, found)


def test_of_an_index_in_which_nothing_fires_nothing_is_interesting() -> None:
    nothing = interests(fired=[0.0, 0.0], max_activation=[0.0, 0.0], mean_activation=[0.0, 0.0])
    assert nothing.tolist() == [0, 0]
