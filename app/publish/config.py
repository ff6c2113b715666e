"""Configuration of publishing, checked when it is made; nothing here imports torch."""

import re
from dataclasses import dataclass

from ...sae.common.paths import FilePath
from ...sae.common.validation import wrong
from ...sae.interop.push import require_repository

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MODEL = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """A run to publish, where to, and with what."""

    run: FilePath
    """Folder of the run."""

    repo: str
    """Repository on the Hugging Face hub, OWNER/NAME; it is made if it is not there."""

    push: bool = False
    """Upload the folder; without it nothing is asked or sent over the network."""

    out: FilePath | None = None
    """Folder to write what is published into; by default publish in RUN."""

    evaluation: FilePath | None = None
    """File with what sparsteer eval RUN --json printed, for the measures of the card; by default
    evaluation.json in RUN, if it is there."""

    license: str | None = None
    """License of the autoencoder, as the hub calls it, such as apache-2.0."""

    base_model: str | None = None
    """Name of the language model on the hub, where the run knows it as a local folder."""

    index: bool = True
    """Publish the feature index too, if the run has one; it holds excerpts of the corpus."""

    private: bool = False
    """Make a new repository private."""

    revision: str | None = None
    """Branch to upload to, made if it is not there; by default main."""

    def __post_init__(self) -> None:
        require_repository(self.repo, "repo")
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise wrong("license", self.license, "a name of the hub's, such as apache-2.0 or other")
        if self.base_model is not None and not _MODEL.fullmatch(self.base_model):
            raise wrong("base_model", self.base_model, "a name on the hub, such as OWNER/NAME")
