"""One edit and one gate of each kind, with random vectors, for tests of what all have in common."""

from typing import Any

import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import SAEConfig, TopKConfig
from sparsteer.steering.interventions.spec import Cap, Edit, Gate, SteeredFeature
from sparsteer.steering.interventions.vectors import Vectors

F = 40


def random_sae(width: int, config: SAEConfig | None = None) -> SparseAutoencoder:
    """In float64, with a scale, a center and biases that matter and rows of unequal norm."""
    config = config or TopKConfig(d_model=width, n_latents=F, k=9)
    sae = SparseAutoencoder(config, seed=3).double()
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        sae.input_scale.fill_(0.37)
        sae.input_center.copy_(0.4 * torch.randn(width, generator=draw))
        for weights, size in ((sae.b_enc, 0.3), (sae.b_dec, 0.5), (sae.W_enc, 0.2)):
            weights += size * torch.randn(weights.shape, generator=draw)
        sae.W_dec.data *= torch.linspace(0.5, 2, F)[:, None]
    return sae


def features(*strengths: float) -> tuple[SteeredFeature, ...]:
    return tuple(
        SteeredFeature(index=5 + 3 * n, strength=strength, max_activation=2.0 + n, p99=1.5 + n)
        for n, strength in enumerate(strengths)
    )


def edits(width: int, site: str, rows_ND: Tensor) -> dict[str, Edit]:
    """By a name each; vectors are as large as the rows."""
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return size * torch.randn(*shape, generator=draw, dtype=torch.float64)

    def edit(kind: str, strength: float = 1.0, **given: Any) -> Edit:
        tensors: dict[str, Tensor] = {
            name: given.pop(name) for name in list(given) if isinstance(given[name], Tensor)
        }
        vectors = Vectors(tensors) if tensors else None
        return Edit(kind=kind, site=site, strength=strength, vectors=vectors, **given)

    spread_D = rows_ND.std(dim=0)
    middle_D = rows_ND.mean(dim=0)
    return {
        "add": edit("add", -1.5, v=normal(width, size=2)),
        "add_norm": edit("add", 0.4, v=normal(width), unit="norm"),
        "add_features": edit("add", features=features(4.0, -3.0)),
        "add_p99": edit("add", 2.0, features=features(2.0, -3.0), unit="p99"),
        "add_feature_norms": edit("add", features=features(0.4, -0.3), unit="norm"),
        "add_raw_features": edit("add", features=features(3.0, -4.0), unit="raw"),
        "clamp": edit("clamp", features=features(3.0, -2.0, 0.0)),
        "clamp_random": edit(
            "clamp", features=features(3.0, -2.0), direction="random", seed=3, unit="raw"
        ),
        "min_clamp": edit("min_clamp", features=features(2.0, 1.0), unit="p99"),
        "ablate": edit("ablate", 3.0, features=features(1.0, 0.0, -1.0)),
        "project_out": edit("project_out", u=normal(width)),
        "project_out_features": edit("project_out", 0.7, features=features(1.0, 1.0)),
        "projection": edit(
            "project_out", u=normal(width), projection=torch.tensor(3.0, dtype=torch.float64)
        ),
        "latents": edit(
            "latents", latents=torch.tensor([3, 8, 20]), w=normal(3), b=normal(3, size=5)
        ),
        "latents_support": edit(
            "latents",
            latents=torch.tensor([3, 8, 20]),
            w=torch.tensor([2.0, 0.5, 1.5]).double(),
            b=torch.tensor([4.0, 1.0, -1.0]).double(),
            low=torch.tensor([0.0, 0.5, -torch.inf]).double(),
            high=torch.tensor([1.0, 2.0, 0.0]).double(),
        ),
        "diagonal": edit("diagonal", 0.8, w=normal(width), b=normal(width)),
        "diagonal_support": edit(
            "diagonal",
            w=normal(width),
            b=normal(width),
            low=middle_D - spread_D,
            high=middle_D + spread_D,
        ),
        "lowrank": edit("lowrank", 0.6, R=normal(2, width), W=normal(2, width), b=normal(2)),
        "rotate": edit("rotate", b1=normal(width), b2=normal(width), settings={"angle": 70.0}),
        "rotate_absolute": edit(
            "rotate",
            b1=normal(width),
            b2=normal(width),
            settings={"angle": 200.0, "absolute": True, "adaptive": True},
        ),
    }


def gates(width: int, earlier: str, rows_ND: Tensor) -> dict[str, Gate]:
    """By a name each; those with a score are open at about half of the rows, and of cosines those
    that ask the prompt wherever it has a content token."""
    draw = torch.Generator().manual_seed(2)
    w_D = torch.randn(width, generator=draw, dtype=torch.float64)
    cosines_N = (rows_ND @ w_D) / row_norms(rows_ND) / row_norms(w_D)
    linalg: Any = torch.linalg  # which leaves its types open
    basis_KD: Tensor = linalg.qr(torch.randn(width, 3, generator=draw).double()).Q.T
    mean_D = rows_ND.mean(dim=0)
    logistic = {
        "mean": mean_D,
        "basis": basis_KD,
        "w": torch.tensor([1.0, -0.7, 0.3], dtype=torch.float64),
        "b": torch.tensor(0.1, dtype=torch.float64),
    }
    probe = {"w": w_D, "b": -median_of(rows_ND @ w_D)}
    asked_once: dict[str, Any] = {"scope": "per_input"}

    def gate(kind: str, tensors: dict[str, Tensor], threshold: float = 0.0, **given: Any) -> Gate:
        site = given.pop("site", None)
        vectors = Vectors(tensors)
        return Gate(kind=kind, threshold=threshold, site=site, vectors=vectors, settings=given)

    middle = float(median_of(cosines_N))
    return {
        "constant": Gate(),
        "per_input": Gate(kind="per_input", features=features(1.0, 1.0)),
        "per_token": Gate(kind="per_token", features=features(1.0), threshold=0.1),
        "cosine": gate("cosine", {"c": 2 * w_D}, middle),
        "cosine_below": gate("cosine", {"c": w_D}, middle, side="below"),
        "cosine_prompt": gate("cosine", {"c": w_D}, -0.99, **asked_once, site=earlier),
        "cosine_last": gate("cosine", {"c": w_D}, -0.99, **asked_once, pool="last"),
        "logistic": gate("logistic", logistic),
        "logistic_prompt": gate("logistic", logistic, **asked_once),
        "logistic_hard": gate("logistic", logistic, -0.2, soft=False, side="below", site=earlier),
        "probe": gate("probe", probe),
        "probe_soft": gate("probe", probe, soft=True, side="below"),
    }


def median_of(values_N: Tensor) -> Tensor:
    return values_N.quantile(0.5)


def cap(rows_ND: Tensor, share: float = 0.5) -> Cap:
    """In three components; so many of the rows are within the budget."""
    centered_ND = rows_ND - rows_ND.mean(dim=0)
    linalg: Any = torch.linalg  # which leaves its types open
    basis_KD: Tensor = linalg.svd(centered_ND, full_matrices=False).Vh[:3]
    along_NK = centered_ND @ basis_KD.T
    variances_K = along_NK.square().mean(dim=0)
    distances_N = (along_NK.square() / variances_K).sum(dim=1).sqrt()
    vectors = Vectors({"mean": rows_ND.mean(dim=0), "basis": basis_KD, "variances": variances_K})
    return Cap(vectors=vectors, budget=float(distances_N.quantile(share)))
