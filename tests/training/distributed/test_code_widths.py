"""Two processes of which one has a row whose codes do not fit: both make the step again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsteer.kernels import dispatch

from .test_data_parallel import ROOT

RUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
WORK = "tests.training.distributed.code_widths_processes"

pytestmark = pytest.mark.skipif(
    dispatch.triton_version() is None, reason="Triton is not installed here"
)


@pytest.mark.slow
def test_all_ranks_make_a_step_again_where_one_has_a_row_that_does_not_fit(tmp_path: Path) -> None:
    done = subprocess.run(
        [*RUN, "-m", WORK, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in (0, 1))
    for name, found in first.items():
        assert found["same"] and found["steps"] == 3, name
        assert len(set(found["needed"])) == 2, "the case is too easy"
        assert found["widths after"] >= max(found["needed"])
        assert second[name] == found
