"""Compose Hydra overrides into a validated job, or an error that lists what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from gaugeport.pipeline.config.defaults import left_open
from gaugeport.pipeline.config.texts import as_typed
from gaugeport.pipeline.config.validate import job_from
from gaugeport.pipeline.job import JobSpec
from gaugeport.pipeline.paths import data_dir


def from_config(config: DictConfig, overrides: Sequence[str]) -> JobSpec:
    """Return the job of a composed config, made from some overrides.

    Raises:
        ValueError: A key or value is not allowed; the message names it and what is allowed.
        FileNotFoundError: A local path does not exist.
    """
    job = job_from(config)
    group = OmegaConf.select(config, "experiment.name") or job.task["name"]
    return JobSpec(job, Path(config.paths.outputs), config.tracker.name, group, tuple(as_typed(overrides)))


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/`` with some overrides, as Hydra does, and what a pretrained model gets beside them.

    Paths and free text are taken as they were typed.

    Raises:
        ValueError: A key or value is not allowed; the message names it and what is allowed.
    """
    overrides = as_typed(overrides)
    with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
        try:
            config = compose("config", overrides=overrides)
            more = left_open(config, overrides)
            return compose("config", overrides=[*overrides, *more]) if more else config
        except HydraException as e:
            raise ValueError(_explained(e, overrides)) from e


def unreadable(error: OverrideParseException) -> str:
    """Return what is wrong with an override that Hydra cannot parse."""
    return f"override {error.override!r} cannot be read (write key=value): {str(error).splitlines()[0]}"


def _explained(error: HydraException, overrides: Sequence[str]) -> str:
    """Return Hydra's message, with what is allowed where an override named a value or key that is not."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return unreadable(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: no such {group}{_nearest_and_allowed(name, error.options, error.options)}"
    if "Could not override" not in text or "'" not in text:
        return text

    # an unknown key: follow it down the config as far as it exists, and list what is there
    unknown = text.split("'")[1]
    keys = _keys(_config_without(unknown, overrides))
    section, there = "", keys
    for part in unknown.split("."):
        inside = [k for k in keys if k.startswith(f"{section}{part}.")]
        if not inside:
            break
        section, there = f"{section}{part}.", inside
    allowed = sorted({section + k.removeprefix(section).split(".")[0] for k in there})
    return (
        f"unknown config key {unknown!r}{_nearest_and_allowed(unknown, sorted({*keys, *allowed}), allowed)}"
    )


def _nearest_and_allowed(given: str, known: Sequence[str], allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.6)
    nearest = f"; nearest: {', '.join(close)}" if close else ""
    return f"{nearest}; allowed: {', '.join(allowed)}"


def _config_without(key: str, overrides: Sequence[str]) -> Any:
    """Compose the overrides without that of a bad key, or no override at all where another is bad too."""
    for kept in ([o for o in overrides if o.split("=")[0] != key], []):
        try:
            return OmegaConf.to_container(compose("config", overrides=kept))
        except HydraException:
            continue
    return {}


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Return the dotted paths of all values of a nested config."""
    if not isinstance(node, dict):
        return [prefix]
    keys = []
    for name, child in node.items():
        keys += _keys(child, f"{prefix}.{name}" if prefix else str(name))
    return keys
