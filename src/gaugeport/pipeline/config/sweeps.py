"""A table's experiment file -> the list of its jobs."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gaugeport.pipeline.config.compose import JobSpec, compose_config, from_config
from gaugeport.pipeline.paths import by_number, data_dir
from gaugeport.pipeline.store.store import digest


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One table: its ``id`` (a3), ``name`` (trajectory) and the sweeps of its jobs."""

    id: str
    name: str
    sweeps: tuple[tuple[str, ...], ...]
    headline: tuple[tuple[str, ...], ...]


def experiment_names() -> list[str]:
    """The names of all tables: one file each in ``conf/experiment/``."""
    return sorted(p.stem for p in (data_dir("conf") / "experiment").glob("*.yaml"))


def experiment(name_or_id: str) -> Experiment:
    """A table's experiment by name or id. Raises ``ValueError`` naming the known ones."""
    known = _experiments(data_dir("conf"))
    for found in known.values():
        if not re.fullmatch(r"[a-z]\d+", found.id) or [e.id for e in known.values()].count(found.id) > 1:
            raise ValueError(
                f"conf/experiment/{found.name}.yaml: id {found.id!r}; allowed: a letter and a number that no other table has"
            )
        if name_or_id in (found.id, found.name):
            return found
    listed = ", ".join(f"{e.id} ({e.name})" for e in sorted(known.values(), key=lambda e: by_number(e.id)))
    raise ValueError(f"unknown table {name_or_id!r}; allowed: {listed}")


@functools.cache
def _experiments(conf: Path) -> dict[str, Experiment]:
    known = {}
    for name in experiment_names():
        node = OmegaConf.load(conf / "experiment" / f"{name}.yaml").experiment  # type: ignore[union-attr]
        known[name] = Experiment(node.id, name, _sweeps(node.sweeps), _sweeps(node.headline))
    return known


def variant_of(profile: str, extra: Sequence[str]) -> str:
    """The folder of tables made at another profile than mini, or with overrides that change results; "" for neither."""
    changing = sorted(
        o for o in extra if not o.startswith(("tracker=", "paths.", "measurement.models_in_memory="))
    )
    parts = [profile] if profile != "mini" or changing else []
    return "-".join([*parts, *([digest(changing)[:8]] if changing else [])])


def jobs_of(
    found: Experiment, profile: str, headline: bool = False, extra: Sequence[str] = ()
) -> list[JobSpec]:
    """Every job of a table (or of its headline part), each once, in the order of its sweeps."""
    fixed = [f"experiment={found.name}", f"profile={profile}", *extra]
    return _jobs(found.headline if headline else found.sweeps, fixed, profile)


def sweep_jobs(overrides: Sequence[str]) -> list[JobSpec]:
    """The jobs of a sweep given as on Hydra's command line: the product of its overrides.

    With ``experiment=<table>`` they are the table's own, with the other overrides on top: a key given here takes the
    place of what the table's lines say of it. Raises ``ValueError`` naming a bad override and what is allowed.
    """
    given = {_key(o): o.partition("=")[2] for o in overrides}
    if "experiment" not in given:
        return _jobs([tuple(overrides)], [], given.get("profile", "mini"))
    found = experiment(given.pop("experiment"))
    rest = [o for o in overrides if _key(o) != "experiment"]
    lines = [(*(o for o in line if _key(o) not in given), *rest) for line in found.sweeps]
    return _jobs(lines, [f"experiment={found.name}"], given.get("profile", "mini"))


def _jobs(lines: Sequence[Sequence[str]], fixed: Sequence[str], profile: str) -> list[JobSpec]:
    if "," in profile:
        raise ValueError(
            f"profile={profile}: a sweep has one profile, which says how many seeds its tables have"
        )
    node = _choices_config((f"profile={profile}",)).profile
    counts = {
        "SEEDS": list(range(node.seeds)),
        "MANY_SEEDS": list(range(node.many_seeds)),
        "STEERING_SEEDS": list(range(node.steering_seeds)),
        "ABLATION_SEEDS": list(range(node.ablation_seeds)),
        "LEARNING_RATES": list(node.learning_rates),
        "NEOX": list(range(node.neox_seeds)),
        "NEOX_PAIRS": list(range(1, node.neox_seeds)),
        "NEOX_EARLY": list(node.neox_early),
        "DYCK_A": list(range(node.dyck.seeds_a)),
        "DYCK_A_PAIRS": list(range(1, node.dyck.seeds_a)),
        "DYCK_B": list(range(node.dyck.seeds_b)),
        "DYCK_B_PAIRS": list(range(1, node.dyck.seeds_b)),
        "DYCK_MANY_SAMPLES": [node.dyck.many_samples],
    }
    jobs: dict[tuple[str, ...], JobSpec] = {}
    unseeded: dict[tuple[str, ...], JobSpec] = {}
    for line in lines:
        if any(counts.get(o.partition("=")[2]) == [] for o in line):
            continue  # not at this profile
        for overrides in expand([_with_counts(o, counts) for o in line]):
            key = tuple({_key(o): o for o in (*fixed, *overrides)}.values())  # the last word on a key counts
            if key in jobs:
                continue
            try:
                jobs[key] = _composed(key, unseeded)
            except ValueError as e:
                if len(lines) == 1:
                    raise
                raise ValueError(f"{e}; in the table's line `{' '.join(line)}`, one of {len(lines)}") from e
    return list(jobs.values())


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _composed(overrides: tuple[str, ...], unseeded: dict[tuple[str, ...], JobSpec]) -> JobSpec:
    """A job of a sweep. Nothing in ``conf/`` depends on the seed: jobs that differ in it alone are composed once."""
    seeds = [o for o in overrides if re.fullmatch(r"seed=\d+", o)]
    rest = tuple(o for o in overrides if o not in seeds)
    if rest not in unseeded:
        unseeded[rest] = from_config(_sweep_config(rest), rest)
    job = copy.deepcopy(unseeded[rest].job)
    if seeds:
        job = dataclasses.replace(job, seed=int(seeds[-1].removeprefix("seed=")))
    return dataclasses.replace(unseeded[rest], job=job, overrides=overrides)


def _sweep_config(overrides: Sequence[str]) -> DictConfig:
    """As :func:`compose_config`, for the many jobs of a sweep: choices of groups are composed once, values set on them.

    Hydra too sets values last; an override that cannot be set goes to Hydra for its error.
    """
    parsed = [_parsed(o) for o in overrides]
    groups = {p.name for p in data_dir("conf").iterdir() if p.is_dir()}
    choices = [
        p for p in parsed if p.key_or_group in groups and not _is_a_name(p.key_or_group, str(p.value()))
    ]
    config = pickle.loads(
        _pickled(tuple(p.input_line or "" for p in choices))
    )  # a tenth of a deepcopy's time
    try:
        for p in parsed:
            if p not in choices:
                key = f"{p.key_or_group}.name" if p.key_or_group in groups else p.key_or_group
                OmegaConf.update(config, key, p.value(), force_add=p.is_add())
    except OmegaConfBaseException:
        return compose_config(overrides)
    return config


@functools.lru_cache(maxsize=256)
def _pickled(choices: tuple[str, ...]) -> bytes:
    return pickle.dumps(_choices_config(choices))


@functools.cache
def _parsed(override: str) -> Override:
    """An override in Hydra's syntax. Tables have some dozen different ones, thousands of times."""
    return OverridesParser.create().parse_overrides([override])[0]


@functools.lru_cache(maxsize=256)
def _choices_config(choices: tuple[str, ...]) -> DictConfig:
    return compose_config(choices)


@functools.cache
def _is_a_name(group: str, choice: str) -> bool:
    """Whether a choice of a group says no more than its own name (all of gauge, matcher and route): a value to set."""
    file = data_dir("conf") / group / f"{choice}.yaml"
    return file.exists() and OmegaConf.load(file) == {"name": choice}


def expand(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The product of a sweep, in Hydra's syntax: ``model=a,b seed=0,1`` is four jobs."""
    choices: list[list[str]] = []
    for parsed in map(_parsed, overrides):
        if parsed.is_sweep_override():
            values = list(map(str, parsed.sweep_string_iterator()))
            twice = [v for v in values if values.count(v) > 1]
            if twice:
                raise ValueError(
                    f"{parsed.get_key_element()}={','.join(values)} names {twice[0]} twice; allowed: each once"
                )
            choices.append([f"{parsed.get_key_element()}={v}" for v in values])
        else:
            assert parsed.input_line is not None
            choices.append([parsed.input_line])
    return [tuple(c) for c in itertools.product(*choices)]


def _with_counts(override: str, counts: dict[str, list[Any]]) -> str:
    key, _, value = override.partition("=")
    return f"{key}={','.join(map(str, counts[value]))}" if value in counts else override


def _sweeps(node: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(line).split()) for line in node)
