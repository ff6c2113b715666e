"""Difference of means: the mean activation of the positive texts minus that of the negative ones.

As in AxBench (arXiv 2501.17148), where all tokens but BOS count alike; here without the first token
behind BOS, an attention sink. With --pool matched positions count alike in both sets, and with
--pool last the last token of each text alone.
"""

from ..config import FitConfig
from ..examples import Examples
from ..site_fit import SiteFit, along
from ..site_method import SiteMethod


def fit_mean_difference(examples: Examples, config: FitConfig) -> SiteFit:
    """The difference of the weighted means.

    Raises:
        InputError: one side has no text, or both means are the same.
    """
    return along(examples.mean_difference())


METHOD = SiteMethod(
    name="mean_difference",
    takes=("sets", "pairs"),
    settings=("pool", "answer_token", "edit_kind"),
    pools=("tokens", "texts", "last", "matched", "answer"),
    fit_site=fit_mean_difference,
)
