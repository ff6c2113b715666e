"""Contrastive activation addition (CAA, arXiv 2312.06681): the mean difference of pairs at the
token of the answer.

A pair is one question with two answers, such as `(A` and `(B`. The published code reads the token
before the last, the answer's letter in `(A)`: --answer-token -2. By default it is the first token
in which the two texts differ, which is that letter, wherever it stands.
"""

from ..config import FitConfig
from ..examples import Examples
from ..site_fit import SiteFit, along
from ..site_method import SiteMethod


def fit_caa(examples: Examples, config: FitConfig) -> SiteFit:
    """The mean of the pair differences.

    Raises:
        InputError: it is 0.
    """
    return along(examples.pair_differences().mean(dim=0))


METHOD = SiteMethod(
    name="caa",
    takes=("pairs",),
    settings=("pool", "answer_token", "edit_kind"),
    pools=("answer", "last"),
    fit_site=fit_caa,
)
