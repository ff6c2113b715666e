"""How toxic texts are, by the linear bag-of-words model of the package alt-profanity-check.

It sees words and no context: an insult without an insulting word is missed, and a neutral sentence
with certain identity words is not.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ...sae.common.errors import InputError

PACKAGE = "alt-profanity-check"
VERSION = "1.9.1"
_MODULE = "profanity_check"
# The package's model is a pickle, the only one this program ever opens; so only these exact bytes.
_CHECKSUMS = {
    "profanity_check/data/model.joblib": (
        "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b"
    ),
    "profanity_check/data/vectorizer.joblib": (
        "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831"
    ),
}
_REMEDY = f"run `pip install '{PACKAGE}=={VERSION}'`"


def profanity_check(texts: Sequence[str]) -> list[float]:
    """The probability that each text is toxic, 0 to 1; a text without a known word scores low.

    Raises:
        InputError: alt-profanity-check is missing, of another version, or not the published one.
    """
    if not texts:
        return []
    scores: list[float] = load_model().predict_prob(list(texts)).tolist()
    return scores


@cache
def load_model() -> Any:
    """The package's module, imported only if it is the pinned version with the published model.

    Raises:
        InputError: as `profanity_check`.
    """
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"toxicity is scored by {PACKAGE}, which is missing; {_REMEDY}") from None
    if distribution.version != VERSION:
        raise InputError(
            f"{PACKAGE} {distribution.version} is installed, but scores are only comparable with "
            f"{VERSION}; {_REMEDY}"
        )
    spec = importlib.util.find_spec(_MODULE)
    home = Path(str(distribution.locate_file(_MODULE))) / "__init__.py"
    if spec is None or spec.origin is None or not home.samefile(spec.origin):
        found = "nothing" if spec is None else spec.origin
        raise InputError(f"import {_MODULE} finds {found} instead of {PACKAGE}'s {home}; remove it")
    for name, checksum in _CHECKSUMS.items():
        content = Path(str(distribution.locate_file(name))).read_bytes()
        if hashlib.sha256(content).hexdigest() != checksum:
            raise InputError(f"{PACKAGE}'s {name} is not the published file; {_REMEDY} anew")
    return importlib.import_module(_MODULE)
