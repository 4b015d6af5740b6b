"""Hydra glue: overrides -> a validated job, or an error that lists what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from gaugeport.pipeline.config.validate import job_from
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.paths import data_dir


@dataclass(frozen=True)
class JobSpec:
    """A job with what is not part of its result: where outputs go, how it is tracked and under which experiment's name
    (its ``group``), the overrides that made it."""

    job: Job
    outputs: Path
    tracker: str
    group: str
    overrides: tuple[str, ...]


def from_config(config: DictConfig, overrides: Sequence[str]) -> JobSpec:
    """The job of a composed config. Raises ``ValueError`` naming a bad key or value and the allowed ones."""
    job = job_from(config)
    group = OmegaConf.select(config, "experiment.name") or job.task["name"]
    return JobSpec(job, Path(config.paths.outputs), config.tracker.name, group, tuple(overrides))


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Hydra's composition of ``conf/`` with some overrides. Raises ``ValueError`` naming a bad one and the allowed."""
    with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
        try:
            return compose("config", overrides=list(overrides))
        except HydraException as e:
            raise ValueError(_explain(e, overrides)) from e


def _explain(error: HydraException, overrides: Sequence[str]) -> str:
    """Hydra's message, with the values or keys that exist where an override named one that does not."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"override {error.override!r} cannot be read (write key=value): {text.splitlines()[0]}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: no such {group}{_choice(name, error.options, error.options)}"
    if "Could not override" not in text or "'" not in text:
        return text
    wanted = text.split("'")[1]
    keys = _keys(_without(wanted, overrides))
    section, there = "", keys
    for part in wanted.split("."):
        inside = [k for k in keys if k.startswith(f"{section}{part}.")]
        if not inside:
            break
        section, there = f"{section}{part}.", inside
    allowed = sorted({section + k.removeprefix(section).split(".")[0] for k in there})
    return f"unknown config key {wanted!r}{_choice(wanted, sorted({*keys, *allowed}), allowed)}"


def _choice(wanted: str, known: Sequence[str], allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    return f"{'; nearest: ' + ', '.join(close) if close else ''}; allowed: {', '.join(allowed)}"


def _without(key: str, overrides: Sequence[str]) -> Any:
    """What the overrides compose to without that of a bad key; without any, where another is bad too."""
    for kept in ([o for o in overrides if o.split("=")[0] != key], []):
        try:
            return OmegaConf.to_container(compose("config", overrides=kept))
        except HydraException:
            continue
    return {}


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [
        k for name, child in node.items() for k in _keys(child, f"{prefix}.{name}" if prefix else str(name))
    ]
