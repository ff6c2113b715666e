"""Features chosen by a rule that looks at no text."""

from sparsteer.steering.features import FeatureIndex
from sparsteer.steering.features.listing import spread_by_density

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
