"""The arm that steers along the mean direction of a group of latents."""

from pathlib import Path

import pytest
import torch

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import LanguageModel
from sparsteer.steering.interventions.added_vector import added_vector
from sparsteer.steering.study.arms.features import SAE_GROUP
from sparsteer.steering.study.arms.group_mean import SAE_GROUP_MEAN
from sparsteer.steering.study.context import StudyContext
from sparsteer.steering.study.texts import study_texts

from .conftest import MakeConfig


@pytest.fixture
def study(make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path) -> StudyContext:
    config = make_config(methods=("sae_group_mean",), tiers=("constant", "per_token"))
    return StudyContext(config, study_texts(config), tmp_path / "out", model=tiny_model)


def test_it_leads_away_along_the_mean_as_far_as_the_group(study: StudyContext) -> None:
    assert study.sae is not None
    group = [feature.index for feature in study.group()]
    assert len(group) > 1
    everywhere, gated = (
        SAE_GROUP_MEAN.steering(arm, study) for arm in SAE_GROUP_MEAN.arms(study.config)
    )
    assert everywhere.intervention is not None and gated.intervention is not None
    v_D = everywhere.intervention.edits[0].tensors["v"]
    rows_KD = torch.nn.functional.normalize(study.sae.W_dec.detach()[group], dim=-1)
    cosine = torch.cosine_similarity(v_D, rows_KD.mean(0), dim=0)
    assert float(cosine) == pytest.approx(-1, abs=1e-5)
    (arm,) = (arm for arm in SAE_GROUP.arms(study.config) if arm.tier == "constant")
    together = SAE_GROUP.steering(arm, study).intervention
    assert together is not None
    length = row_norms(added_vector(together, study.sae))
    assert float(row_norms(v_D)) == pytest.approx(float(length), rel=1e-5)
    # A tier asks the latents themselves.
    assert gated.intervention.gate.kind == "per_token"
    assert {feature.index for feature in gated.intervention.gate.features} == set(group)
    assert set(group) <= study.chosen_latents()
