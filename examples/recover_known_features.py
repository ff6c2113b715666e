"""Which L0 is right? Train on activations whose features are known, at several k.

    python examples/recover_known_features.py [--k 2 4 6 8 12 20] [--active 6] [--steps 600]

Needs scipy, which the extra `eval` brings.

Every autoencoder sees the same rows, in which --active features are active on average. MCC and F1
say how well the latents are these features, and are best at that k, while reconstruction goes on
improving. On a real model the features are unknown. The overlap of decoder rows, proposed as a
guide there (arXiv 2508.16560), tells of a k too low; here it does not tell of one too high.
"""

import argparse

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.metrics import measure_rows
from sparsteer.training import Trainer, TrainerConfig
from sparsteer.training.evaluation.evaluation import mean_absolute_cosine
from sparsteer.training.evaluation.known_features import KnownFeatures, recovery

WIDTH, FEATURES, BATCH = 32, 64, 256


def trained(known: KnownFeatures, k: int, steps: int) -> SparseAutoencoder:
    sae = SparseAutoencoder(TopKConfig(d_model=WIDTH, n_latents=FEATURES, k=k))
    batches = known.batches(BATCH)
    trainer = Trainer(sae, TrainerConfig(tokens=BATCH * steps, batch_size=BATCH, lr=3e-3))
    trainer.initialize(known.sample(8192, seed=2)[0])
    for _ in range(steps):
        trainer.step(next(batches))
    return sae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--k", type=int, nargs="+", default=[2, 4, 6, 8, 12, 20])
    parser.add_argument("--active", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    known = KnownFeatures.make(WIDTH, FEATURES, active=arguments.active)
    held_out, _ = known.sample(8192, seed=3)
    print("  k     FVU     MCC      F1  overlap")
    for k in arguments.k:
        sae = trained(known, k, arguments.steps)
        found = recovery(sae, known)
        fvu = measure_rows(sae, held_out).fvu
        overlap = mean_absolute_cosine(sae.W_dec.detach())
        print(f"{k:3}  {fvu:.4f}  {found['mcc']:.4f}  {found['f1']:.4f}   {overlap:.4f}")


if __name__ == "__main__":
    main()
