"""After the call, a large block of memory costs no new pages the second time."""

import subprocess
import sys

import pytest

from sparsteer.training.runtime.malloc import keep_freed_memory

PROGRAM = """
import resource, sys, torch
from sparsteer.training.runtime.malloc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(12_000_000).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = faults()
keep_freed_memory()
for _ in range(4):  # until the pieces between small objects are large enough
    faults()
print(without, faults())
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="this malloc has no such settings")
@pytest.mark.slow
def test_large_blocks_are_reused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    without, with_it = map(int, done.stdout.split())
    assert with_it < without / 2
