"""A logistic regression that tells the sides apart; its weights are the direction.

The direction has the length of the mean difference. As the whitened mean it is made to detect, and
need not steer well: in AxBench (arXiv 2501.17148) probes detect as well as the difference of means
and steer worse.
"""

from ....kernels.numerics import row_norms
from ..config import FitConfig
from ..examples import Examples, unit
from ..logistic_regression import fit_logistic
from ..site_fit import SiteFit, along, require_direction
from ..site_method import SiteMethod


def fit_logistic_direction(examples: Examples, config: FitConfig) -> SiteFit:
    """The weights in the units of the activations, scaled.

    Raises:
        InputError: one side has no text, both means are the same, or scikit-learn is missing.
    """
    mean_D = examples.mean_difference()
    require_direction(mean_D)
    weights_D, intercept = fit_logistic(
        examples.rows_ND, examples.is_positive_N, config.penalty or 1.0
    )
    require_direction(weights_D)
    right_N = (examples.rows_ND @ weights_D + intercept > 0) == examples.is_positive_N
    return along(
        unit(weights_D) * row_norms(mean_D),
        cosine_to_mean_difference=float(unit(weights_D) @ unit(mean_D)),
        training_accuracy=float(right_N.double().mean()),
    )


METHOD = SiteMethod(
    name="logistic",
    takes=("sets", "pairs"),
    settings=("pool", "edit_kind", "penalty"),
    pools=("texts", "last", "each"),
    fit_site=fit_logistic_direction,
)
