"""Keep the jobs that each table composes to, so that a later command does not compose them again.

Composing 1,481 jobs takes several seconds, and so does importing what checks them. The jobs are kept as
plain JSON in the folder of outputs, under a digest of what decides them: overrides, ``conf/`` and code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gaugeport.pipeline.config.experiments import Experiment, variant_of
from gaugeport.pipeline.config.texts import text_of
from gaugeport.pipeline.job import Data, Job, JobSpec, Measurement, Model, Package, Schedule, Training
from gaugeport.pipeline.paths import PACKAGE, data_dir
from gaugeport.pipeline.store.store import digest
from gaugeport.utils.files import write_text

OUTPUTS_VARIABLE = "GAUGEPORT_OUTPUTS"
"""The environment variable that ``conf/config.yaml`` reads the folder of outputs from."""


def jobs_of(
    table: Experiment, profile: str, headline: bool = False, extra: Sequence[str] = (), keep: bool = True
) -> list[JobSpec]:
    """Return every job of a table, as :func:`gaugeport.pipeline.config.sweeps.jobs_of` composes them.

    Jobs that name local files are composed each time: the files may have changed or gone.

    Args:
        table: The table.
        profile: The profile to compose it at.
        headline: Return only the jobs of its headline part.
        extra: Overrides of every job.
        keep: Keep them for later commands.

    Raises:
        ValueError: An override is not allowed; the message names it and what is allowed.
    """
    path, key = _path(table, profile, headline, extra), _key(table, profile, headline, extra)
    kept = _read(path, key)
    if kept is not None:
        return kept
    from gaugeport.pipeline.config import sweeps  # takes seconds to import

    specs = sweeps.jobs_of(table, profile, headline, extra)
    if keep and not any(spec.job.files() for spec in specs):
        text = json.dumps({"key": key, "jobs": [_plain(spec) for spec in specs]})
        if _specs(json.loads(text)) == specs:
            write_text(path, text)
    return specs


def is_kept(table: Experiment, profile: str, headline: bool = False, extra: Sequence[str] = ()) -> bool:
    """Return whether the jobs of a table need not be composed."""
    path = _path(table, profile, headline, extra)
    return _read(path, _key(table, profile, headline, extra)) is not None


def _path(table: Experiment, profile: str, headline: bool, extra: Sequence[str]) -> Path:
    outputs = os.environ.get(OUTPUTS_VARIABLE, "outputs")
    for override in extra:
        if override.startswith("paths.outputs="):
            outputs = text_of(override.partition("=")[2])
    part = "-headline" if headline else ""
    variant = variant_of(profile, extra) or profile
    return Path(outputs) / "jobs" / f"{table.id}-{table.name}-{variant}{part}.json"


def _key(table: Experiment, profile: str, headline: bool, extra: Sequence[str]) -> str:
    outputs = os.environ.get(OUTPUTS_VARIABLE)
    return digest([_code(), table.name, profile, headline, list(extra), outputs])


@functools.cache
def _code() -> str:
    """Return a digest of everything that composes and checks jobs."""
    files = [*PACKAGE.rglob("*.py"), *data_dir("conf").rglob("*.yaml")]
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(str(file).encode() + file.read_bytes())
    for package in ("hydra-core", "omegaconf", "transformers"):
        total.update(importlib.metadata.version(package).encode())
    return total.hexdigest()


def _read(path: Path, key: str) -> list[JobSpec] | None:
    try:
        kept = json.loads(path.read_text())
        return _specs(kept) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):  # absent, damaged, or of another version
        return None


def _plain(spec: JobSpec) -> dict[str, Any]:
    return {**asdict(spec), "outputs": str(spec.outputs)}


def _specs(kept: dict[str, Any]) -> list[JobSpec]:
    return [
        JobSpec(
            job=_job(plain["job"]),
            outputs=Path(plain["outputs"]),
            tracker=plain["tracker"],
            group=plain["group"],
            overrides=tuple(plain["overrides"]),
        )
        for plain in kept["jobs"]
    ]


def _job(plain: dict[str, Any]) -> Job:
    package = plain["model"]["package"]
    model = {**plain["model"], "package": None if package is None else Package(**package)}
    parts = {
        "model": Model(**model),
        "data": Data(**plain["data"]),
        "training": Training(**{run: Schedule(**s) for run, s in plain["training"].items()}),
        "measurement": Measurement(**plain["measurement"]),
    }
    return Job(**{**plain, **parts})
