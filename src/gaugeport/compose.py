"""Hydra glue: overrides -> a validated job, or an error that lists what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from gaugeport.job import Job
from gaugeport.paths import data_dir
from gaugeport.validate import job_from


@dataclass(frozen=True)
class Composed:
    """A job with what is not part of its result: where outputs go, how it is tracked and under which experiment's name
    (its ``group``), the overrides that made it."""

    job: Job
    outputs: Path
    tracker: str
    group: str
    overrides: tuple[str, ...]


def from_config(config: DictConfig, overrides: Sequence[str]) -> Composed:
    """The job of a composed config. Raises ``ValueError`` naming a bad key or value and the allowed ones."""
    job = job_from(config)
    group = OmegaConf.select(config, "experiment.name") or job.task["name"]
    return Composed(job, Path(config.paths.outputs), config.tracker.name, group, tuple(overrides))


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Hydra's composition of ``conf/`` with some overrides. Raises ``ValueError`` naming a bad one and the allowed."""
    with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
        try:
            return compose("config", overrides=list(overrides))
        except HydraException as e:
            raise ValueError(explain(e)) from e


def explain(error: HydraException) -> str:
    """Hydra's message, with the keys that exist where an override named one that does not."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"override {error.override!r} cannot be read: {text.splitlines()[0]}"
    if "Could not override" not in text:
        return text
    wanted = text.split("'")[1] if "'" in text else text
    known = sorted(_keys(OmegaConf.to_container(compose("config"))))
    close = difflib.get_close_matches(wanted, known, n=5, cutoff=0.5)
    return f"{text.splitlines()[0]}\nunknown config key {wanted!r}; nearest: {', '.join(close) or 'none'}; allowed: {', '.join(known)}"


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [k for name, child in node.items() for k in _keys(child, f"{prefix}.{name}" if prefix else str(name))]
