"""Hydra glue: overrides -> validated jobs; a table's experiment file -> its list of jobs."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from gaugeport.job import Job, job_from
from gaugeport.paths import data_dir


@dataclass(frozen=True)
class Composed:
    """A job with what is not part of its result: where outputs go, how it is tracked, the overrides that made it."""

    job: Job
    outputs: Path
    tracker: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """One table: its ``id`` (a3), ``name`` (trajectory) and the sweeps of its jobs."""

    id: str
    name: str
    sweeps: tuple[tuple[str, ...], ...]
    headline: tuple[tuple[str, ...], ...]


def composed(overrides: Sequence[str]) -> Composed:
    """The job of some Hydra overrides. Raises ``ValueError`` naming a bad override and the allowed ones."""
    return from_config(compose_config(overrides), overrides)


def from_config(config: DictConfig, overrides: Sequence[str]) -> Composed:
    """The job of a composed config."""
    return Composed(job_from(config), Path(config.paths.outputs), config.tracker.name, tuple(overrides))


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Hydra's composition of ``conf/`` with some overrides."""
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


def experiment_names() -> list[str]:
    """The names of all tables: one file each in ``conf/experiment/``."""
    return sorted(p.stem for p in (data_dir("conf") / "experiment").glob("*.yaml"))


def experiment(name_or_id: str) -> Experiment:
    """A table's experiment by name or id. Raises ``ValueError`` naming the known ones."""
    known = {}
    for name in experiment_names():
        node = OmegaConf.load(data_dir("conf") / "experiment" / f"{name}.yaml").experiment  # type: ignore[union-attr]
        known[name] = Experiment(node.id, name, _sweeps(node.sweeps), _sweeps(node.headline))
    for found in known.values():
        if name_or_id in (found.id, found.name):
            return found
    listed = ", ".join(f"{e.id} ({e.name})" for e in sorted(known.values(), key=lambda e: e.id))
    raise ValueError(f"unknown table {name_or_id!r}; allowed: {listed}")


def jobs_of(found: Experiment, profile: str, headline: bool, extra: Sequence[str] = ()) -> list[Composed]:
    """Every job of a table (or of its headline part), each once, in the order of its sweeps."""
    fixed = [f"experiment={found.name}", f"profile={profile}", *extra]
    seeds = compose_config(fixed).profile
    counts = {"SEEDS": seeds.seeds, "ABLATION_SEEDS": seeds.ablation_seeds}
    jobs: dict[tuple[str, ...], Composed] = {}
    for sweep in found.headline if headline else found.sweeps:
        lines = [o for o in (_with_seeds(o, counts) for o in sweep)]
        for overrides in expand(lines):
            key = (*fixed, *overrides)
            jobs.setdefault(key, composed(key))
    return list(jobs.values())


def expand(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The product of a sweep, in Hydra's syntax: ``model=a,b seed=0,1`` is four jobs."""
    choices: list[list[str]] = []
    for parsed in OverridesParser.create().parse_overrides(list(overrides)):
        if parsed.is_sweep_override():
            choices.append([f"{parsed.get_key_element()}={v}" for v in parsed.sweep_string_iterator()])
        else:
            assert parsed.input_line is not None
            choices.append([parsed.input_line])
    return [tuple(c) for c in itertools.product(*choices)]


def _with_seeds(override: str, counts: dict[str, int]) -> str:
    key, _, value = override.partition("=")
    return f"{key}={','.join(str(i) for i in range(counts[value]))}" if value in counts else override


def _sweeps(node: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(line).split()) for line in node)


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [k for name, child in node.items() for k in _keys(child, f"{prefix}.{name}" if prefix else str(name))]
