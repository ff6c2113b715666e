"""The planted caches of the tests of training."""

from ...training.conftest import paired_cache as paired_cache
from ...training.conftest import planted_cache as planted_cache
from ...training.conftest import write_cache as write_cache
