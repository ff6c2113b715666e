"""The first principal component of the pair differences, as long as the mean difference.

As in representation engineering (arXiv 2310.01405 and, for reasoning, 2504.19483), where the
differences are centered first. That takes off the mean difference, which is the very signal, and
leaves the sign open; so here they are not centered unless asked for, and the component is always
turned to the side of the mean difference.
"""

from ....kernels.numerics import row_norms
from ....sae.common.errors import InputError
from ..config import FitConfig
from ..examples import Examples
from ..principal import principal_direction
from ..site_fit import SiteFit, along, require_direction
from ..site_method import SiteMethod


def fit_principal_component(examples: Examples, config: FitConfig) -> SiteFit:
    """The component; the report has its share of the variance and its cosine to the mean.

    Raises:
        InputError: it is not defined: the differences are 0, or centered and all the same; the two
            largest components are equal; or it is orthogonal to the mean difference.
    """
    differences_PD = examples.pair_differences()
    mean_D = differences_PD.mean(dim=0)
    require_direction(mean_D)
    centered = config.center == "pairs"
    if centered and len(differences_PD) < 2:
        raise InputError(
            "center is 'pairs', but there is one pair; give more, or leave it out", field="center"
        )
    found = principal_direction(differences_PD, mean_D, centered=centered)
    return along(
        found.direction_D * row_norms(mean_D),
        centered=centered,
        explained_variance=found.explained,
        cosine_to_mean_difference=found.cosine,
    )


METHOD = SiteMethod(
    name="principal_component",
    takes=("pairs",),
    settings=("pool", "answer_token", "edit_kind", "center"),
    pools=("last", "texts", "answer"),
    fit_site=fit_principal_component,
)
