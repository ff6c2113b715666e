"""The run folder: resolved configuration, environment, metrics, checkpoints and the result.

RUN/config.yaml  environment.json  metrics.jsonl  checkpoints/step-N/  sae/
"""

import json
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import yaml

from ..sae.common.checksums import (
    checked_line,
    read_checked_json,
    read_line,
    require_checksum,
    with_checksum,
    write_checked_json,
)
from ..sae.common.errors import InputError
from ..sae.common.files import atomic_file, remove_folder
from ..sae.common.locks import hold_folder, is_leftover, tidy
from ..sae.common.old_names import with_new_names
from ..sae.common.paths import refuse_special_file
from ..sae.common.wording import counted
from ..sae.common.yaml_files import read_yaml
from .checkpoint import has_whole_checkpoint
from .config import autoencoder_settings
from .data.settings import lasting_names, stream_settings, to_plain
from .data.stream.chunk_index import CHUNK_INDEX
from .data.stream.config import StreamConfig
from .open_settings import DERIVED, begun_with
from .target_l0 import DEFAULT_TARGET_L0
from .tracking import Tracker, Tracking, open_tracker
from .trainer_config import CLOCK_SETTINGS, Precision, TrainerConfig

SETTINGS = "config.yaml"
METRICS = "metrics.jsonl"
RESOLVED_PRECISION = "resolved_precision"
"""In config.yaml what the precision came to, which may have been asked for as `auto`."""
_FILES_OF_THE_START = {SETTINGS, "environment.json", METRICS, CHUNK_INDEX}
_RESTORE = "restore it, or train into another folder"
_PACKAGES = (
    "sparsteer",
    "torch",
    "triton",
    "numba",
    "transformer-lens",
    "transformers",
    "datasets",
)


class RunFolder:
    """One training run on disk.

    Attributes:
        path: the folder.  checkpoints: its folder of checkpoints.  sae: the finished autoencoder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.sae = self.path / "sae"
        self._metrics: TextIO | None = None
        self._tracker: Tracker | None = None
        self._held = ExitStack()

    def claim(self, resolved: dict[str, Any]) -> bool:
        """Find the folder free, or with a run of the same configuration; hold it until `close`.

        What a killed process left half-written is removed, nothing else.

        Returns:
            Whether the run is complete. It is not where more tokens are asked for than it was
            trained on, and no step so far depends on how many.

        Raises:
            InputError: the folder holds something else, or a run of another configuration, or
                another process is training there.
        """
        self._require_run_or_free()
        self._held.enter_context(hold_folder(self.path))
        self._held.callback(self._leave_nothing_unless_begun)
        goes_further = self.has_begun() and self._goes_further(self.settings(), resolved)
        tidy(self.checkpoints)
        return self.is_complete() and not goes_further

    def require_claimable(self, resolved: dict[str, Any]) -> None:
        """Raise the InputErrors of `claim` about what the folder holds, which is left as it is."""
        self._require_run_or_free()
        if self.has_begun():
            self._goes_further(self.settings(), resolved)

    def begin(
        self, resolved: dict[str, Any], *, threads: int, device: str, processes: int = 1
    ) -> None:
        """Write what a run that is claimed and not complete starts or goes on with.

        A run that has nothing to go on from is begun anew; one that is trained further goes on from
        its last checkpoint.
        """
        if self.is_complete():
            remove_folder(self.sae)
        elif not self.has_begun():
            # Its chunk starts may be those of another stream.
            (self.path / CHUNK_INDEX).unlink(missing_ok=True)
        with atomic_file(self.path / SETTINGS) as temporary:
            temporary.write_text(checked_yaml(resolved), encoding="utf-8")
        found = environment(threads=threads, device=device, processes=processes)
        write_checked_json(self.path / "environment.json", found)

    def has_begun(self) -> bool:
        """Whether a run is there that has something to go on from, complete or not."""
        return (self.path / SETTINGS).exists() and (
            self.is_complete()
            or bool(self.metrics())
            or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))
        )

    def is_complete(self) -> bool:
        """Whether training ended and its autoencoder was saved."""
        return (self.sae / "config.json").exists()

    def keep_metrics_until(self, step: int) -> None:
        """Drop the metrics beyond the step, a line cut short by a kill, and a summary, which is of
        an end that is no longer one."""
        lines = self.metrics()
        kept = [line for line in lines if line["step"] <= step and "summary" not in line]
        with atomic_file(self.path / METRICS) as temporary:
            temporary.write_text("".join(checked_line(line) for line in kept))

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl, and tell the tracker; it must hold `step`."""
        if self._metrics is None:
            self._metrics = (self.path / METRICS).open("a", encoding="utf-8")
        self._metrics.write(checked_line(line))
        self._metrics.flush()
        if self._tracker is not None:
            self._tracker.log(line)

    def track(self, kind: Tracking | None, resolved: dict[str, Any]) -> None:
        """From now on tell a tracker of this kind, too."""
        self._tracker = open_tracker(kind, self.path, resolved)

    def close(self) -> None:
        """End the tracker and give up the folder; `log` opens metrics.jsonl again."""
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        self._held.close()

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far, without a last one that a kill cut short.

        Raises InputError if a line is not as it was written.
        """
        path = self.path / METRICS
        refuse_special_file(path, "run's metrics", _RESTORE)
        lines: list[dict[str, Any]] = []
        content = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(content, start=1):
            try:
                text = line.decode("utf-8")
                if number == len(content) and is_cut_short(text):
                    break
                lines.append(with_new_names(read_line(text)))
            except ValueError as error:
                raise InputError(
                    f"line {number} of {path} is not as it was written ({error}); restore the "
                    "file, or remove that line to do without it"
                ) from None
        return lines

    def curve(self) -> list[dict[str, float | int]]:
        """The logged steps: tokens, fvu, l0 and dead_fraction of the batch, and held_out_fvu where
        it was measured, at the end too."""
        points: list[dict[str, float | int]] = []
        for line in self.metrics():
            if "fvu" in line:
                points.append(
                    {name: line[name] for name in ("tokens", "fvu", "l0", "dead_fraction")}
                )
            held_out = line.get("summary", line).get("held_out")
            if held_out and points:
                points[-1]["held_out_fvu"] = held_out["fvu"]
        return points

    def summary(self) -> dict[str, Any]:
        """The summary of a complete run, the last line of its metrics.

        Raises InputError if it is not there.
        """
        lines = self.metrics()
        if not lines or "summary" not in lines[-1]:
            raise InputError(
                f"{self.path} is complete, but {self.path / 'metrics.jsonl'} lacks its summary; "
                "restore that file, or train into another --out"
            )
        return lines[-1]["summary"]

    def settings(self) -> dict[str, Any]:
        """The resolved configuration, config.yaml.

        Raises InputError if it is not as it was written.
        """
        settings = with_new_names(read_checked_yaml(self.path / SETTINGS))
        settings.pop("version", None)
        return settings

    def settings_if_begun(self) -> dict[str, Any]:
        """`settings`, if there is something to go on from; else none."""
        return self.settings() if self.has_begun() else {}

    def environment(self) -> dict[str, Any]:
        """What its numbers depend on beside the settings, environment.json; empty if missing.

        Raises InputError if it is not as it was written.
        """
        path = self.path / "environment.json"
        if not path.exists():
            return {}
        remedy = "restore it, or remove it, after which last bits may come out differently"
        values = read_checked_json(path, "run's environment", remedy=remedy)
        values.pop("version", None)
        return values

    def precision_begun_with(self) -> Precision | None:
        """The definite precision of the run so far, None if there is none.

        Raises InputError if config.yaml is not as it was written.
        """
        return _precision(_flat(self.settings())) if self.has_begun() else None

    def threads_begun_with(self, processes: int) -> int | None:
        """Threads of each process of the run so far, None if unknown or if there were not as many
        processes."""
        found = self.environment()
        threads = found.get("threads")
        known = isinstance(threads, int) and threads >= 1
        return threads if known and found.get("processes", 1) == processes else None

    def _require_run_or_free(self) -> None:
        if not (self.path / SETTINGS).exists() and self.path.exists() and _is_other(self.path):
            raise InputError(
                f"{self.path} exists and is not a run; give another --out or an empty folder"
            )

    def _leave_nothing_unless_begun(self) -> None:
        """Remove what `begin` wrote for a run that has nothing to go on from."""
        content = [item for item in self.path.iterdir() if not is_leftover(item)]
        if not self.has_begun() and {item.name for item in content} <= _FILES_OF_THE_START:
            for item in content:
                item.unlink()

    def _goes_further(self, found: dict[str, Any], resolved: dict[str, Any]) -> bool:
        """Whether the run has the same settings but for more tokens.

        Raises InputError if it has others, or cannot go on to more tokens.
        """
        # What a setting that an older sparsteer did not know does by default, it did then.
        known = _settings({"trainer": to_plain(TrainerConfig())})
        if "stream" in found:
            known |= stream_settings(StreamConfig(model_dtype="float32", dtype="float16"))
        before, now = (
            lasting_names(values) for values in (known | _settings(found), _settings(resolved))
        )
        other = [name for name in before | now if before.get(name) != now.get(name)]
        if other == ["tokens"] and now["tokens"] > before["tokens"]:
            streams = resolved.get("cache") is None
            self._require_further(before["tokens"], now, resolved[DERIVED], streams=streams)
            return True
        for name in other:
            if name not in ("shards", "shard_optimizer"):  # their results are the same
                raise InputError(
                    f"{self.path} holds a run with {name}={before.get(name)!r}, not "
                    f"{now.get(name)!r}; give another --out, or the same settings to resume"
                )
        return False

    def _require_further(
        self, tokens: int, now: dict[str, Any], left_open: Sequence[str], *, streams: bool
    ) -> None:
        """Raise InputError unless a run of so many tokens can go on to more as though they had been
        asked for at first, with what is left open derived from them."""
        causes = ["the stream of activations"] if streams else []
        causes += [name for name in ("warmup_fraction", "decay_fraction") if now[name] > 0]
        causes += ["k_start"] if now["k_start"] is not None else []
        causes += [f"{', '.join(left_open)}, left open,"] if left_open else []
        if causes:
            raise InputError(
                f"{self.path} holds a run with tokens={tokens}, not {now['tokens']}, and its steps "
                f"would have been others with more tokens ({' and '.join(causes)} count from the "
                "total); give another --out: a run with --warmup-fraction 0 --decay-fraction 0, "
                "--batch-size, --lr and --dead-after-tokens can be trained further"
            )
        last = now["tokens"] // now["batch_size"]
        if not self.is_complete() or has_whole_checkpoint(self.checkpoints, last):
            return
        complete = f"{self.path} is complete with tokens={tokens} and cannot be trained further"
        steps = tokens // now["batch_size"]
        by_clock = self.settings()["trainer"].get("checkpoint_minutes") is not None
        every = now["checkpoint_every"]
        if not by_clock and every >= steps and not any(self.checkpoints.glob("step-*")):
            raise InputError(
                f"{complete}: it has no checkpoint, as it took {counted(steps, 'step')} and "
                f"--checkpoint-every is {every}; give another --out, and a "
                "--checkpoint-every below the number of steps to train that run further later"
            )
        never = ", or it ended before --checkpoint-minutes had passed" if by_clock else ""
        raise InputError(
            f"{complete}: its checkpoints in {self.checkpoints} are gone or damaged{never}; give "
            "another --out"
        )


def _is_other(path: Path) -> bool:
    """Whether more is there than what a process killed at its start leaves behind."""
    if not path.is_dir():
        return True
    return not all(map(is_leftover, path.iterdir()))


# Where the files lie does not matter: the fingerprint says which cache it is. What is left open in
# the autoencoder's own settings, such as n_latents and k, is decided in `sae`.
_INDIFFERENT = ("out", "cache", "finetune", "finetune_origin", "activation", "setting", "track")


def _settings(resolved: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a run, by the names of their flags; of the precision what it came
    to, however it was asked for."""
    flat = _flat(resolved)
    precision = _precision(flat)
    flat.pop(RESOLVED_PRECISION, None)
    flat.pop(DERIVED, None)
    if "sae" in resolved:
        flat |= begun_with(resolved)
    if flat.get("target_l0") == DEFAULT_TARGET_L0 and not flat.get("learned_scale"):
        # As an older sparsteer wrote for every activation; only jumprelu had it, and still does.
        flat["target_l0"] = None
    return flat | {"precision": precision}


def _flat(resolved: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in resolved.items():
        if isinstance(value, dict):
            flat |= value
        elif name not in (*_INDIFFERENT, *autoencoder_settings()):
            flat[name] = value
    return {name: value for name, value in flat.items() if name not in CLOCK_SETTINGS}


def _precision(flat: dict[str, Any]) -> Precision:
    """An older sparsteer multiplied what it was asked to, and before there was a choice float32."""
    return flat.get(RESOLVED_PRECISION) or flat.get("precision", "float32")


def environment(*, threads: int, device: str, processes: int = 1) -> dict[str, Any]:
    """What the numbers of a run depend on beside its configuration."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": device,
        "threads": threads,
        "processes": processes,
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def checked_yaml(values: dict[str, Any]) -> str:
    """Settings as YAML with their checksum."""
    return yaml.safe_dump(with_checksum(values), sort_keys=False)


def read_checked_yaml(path: Path) -> dict[str, Any]:
    """The settings that `checked_yaml` wrote, without their checksum but with their version.

    Raises InputError if they are not as they were written.
    """
    settings = read_yaml(path, "run's configuration", remedy=_RESTORE)
    require_checksum(settings, f"the run's configuration {path}", _RESTORE)
    return settings


def is_cut_short(line: str) -> bool:
    """Whether a last line is but the beginning of one, as a kill leaves it."""
    try:
        json.JSONDecoder().raw_decode(line)
    except json.JSONDecodeError:
        return not line.endswith("\n")
    return False
