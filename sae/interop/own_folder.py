"""The layout `sparsteer`: the folder that `SparseAutoencoder.save` writes and `load` reads."""

from pathlib import Path

from ..autoencoder import SparseAutoencoder, is_own_folder


def recognizes(path: Path) -> bool:
    """Whether the folder, or the run that it is, holds an autoencoder of this package."""
    return is_own_folder(path)


def read(path: Path) -> SparseAutoencoder:
    """As `SparseAutoencoder.load`."""
    return SparseAutoencoder.load(path)


def write(sae: SparseAutoencoder, out: Path) -> None:
    """As `SparseAutoencoder.save`, but batch_topk as the jumprelu that encodes alike."""
    sae.activation.exported(sae).save(out)
