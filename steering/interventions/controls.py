"""Controls: interventions of the same size along latents that are drawn at random."""

from collections.abc import Sequence

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ..directions.random_latents import draw_latents
from .added_vector import added_vector
from .intervention import Intervention
from .spec import SteeredFeature


def random_features(
    intervention: Intervention,
    sae: SparseAutoencoder,
    *,
    n: int,
    seed: int,
    candidates: Sequence[int] | None = None,
) -> list[Intervention]:
    """Different latents, drawn at random, each with a change of the intervention's norm.

    What they do too is the effect of a push of that size, not of the features' meaning. The tier
    is `constant`, whatever the intervention's is, for a random latent's firing means nothing. The
    change is added, whatever the intervention's edit is; one without features must add a vector.

    Args:
        intervention: what the controls stand beside.
        sae: the autoencoder of its features.
        n: how many.
        seed: which latents, and which signs.
        candidates: latents to draw from, such as those that ever fire; all if it is None.

    Returns:
        The controls; their strength is in the autoencoder's scaled units (max_activation is 1).

    Raises:
        InputError: there are fewer candidates than n outside the intervention's own features, or
            the size of its change depends on the activation.
    """
    chosen, signs = draw_latents(
        range(sae.config.n_latents) if candidates is None else candidates,
        besides=[feature.index for feature in intervention.features],
        n=n,
        seed=seed,
    )
    size = float(row_norms(added_vector(intervention, sae) * sae.input_scale))
    controls: list[Intervention] = []
    for index, sign in zip(chosen, signs, strict=True):
        strength = size / float(row_norms(sae.W_dec.detach()[index]))
        feature = SteeredFeature(
            index=index, strength=strength, sign=1 if sign > 0 else -1, max_activation=1.0
        )
        controls.append(Intervention.of_features(site=intervention.site, features=(feature,)))
    return controls
