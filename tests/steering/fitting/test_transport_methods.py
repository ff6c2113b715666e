"""Maps between sets of texts as methods of `steer fit`: which texts are which, and resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.steering.fitting.config import FitConfig
from sparsteer.steering.fitting.lin_act import fit_lin_act
from sparsteer.steering.fitting.methods.lin_act import LinActMethod
from sparsteer.steering.fitting.methods.lineas import LinEASMethod
from sparsteer.steering.fitting.sources import sets_of

from .test_lin_act import B_D, LOW, SITES, UP, W_D, chain, config


def settings(out: Path, method: str, **given: Any) -> FitConfig:
    return FitConfig(
        method=method,
        model="chain",
        out=str(out),
        site=SITES[:1],
        positive="upper.txt",
        negative="lower.txt",
        held_out=0.0,
        **given,
    )


def test_negative_texts_are_carried_to_positive_ones(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = chain(tiny_model_folder)
    source = sets_of(UP, LOW)
    method = LinActMethod()
    (edit,) = method.fit(model, source, settings(tmp_path, "lin_act", support="off"), print).edits
    torch.testing.assert_close(edit.tensors["w"], W_D, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(edit.tensors["b"], B_D, rtol=1e-9, atol=1e-9)
    (expected,) = fit_lin_act(model, LOW, UP, config()).edits
    torch.testing.assert_close(edit.tensors["w"], expected.tensors["w"])


class _Stop(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_training_goes_on(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = chain(tiny_model_folder)
    source = sets_of(UP, LOW)
    method = LinEASMethod()
    out = tmp_path / "fit"
    heard: list[str] = []

    def stopping(sentence: str) -> None:
        heard.append(sentence)
        raise _Stop

    with pytest.raises(_Stop):
        method.fit(model, source, settings(out, "lineas", steps=11, checkpoint_every=4), stopping)
    assert heard[0].startswith("step 10 of 11, loss ")
    assert (tmp_path / "fit.training").is_dir()
    resumed = method.fit(
        model, source, settings(out, "lineas", steps=11, checkpoint_every=4), heard.append
    )
    assert not list(tmp_path.iterdir())
    whole = method.fit(
        model, source, settings(out, "lineas", steps=11, checkpoint_every=4), heard.append
    )
    for one, other in zip(resumed.edits, whole.edits, strict=True):
        assert torch.equal(one.tensors["w"], other.tensors["w"])
        assert torch.equal(one.tensors["b"], other.tensors["b"])
