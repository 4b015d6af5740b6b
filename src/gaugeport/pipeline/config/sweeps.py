"""Read the jobs of a table from its experiment file, or of a sweep from its overrides."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pickle
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gaugeport.pipeline.config.compose import compose_config, from_config, unreadable
from gaugeport.pipeline.config.defaults import left_open
from gaugeport.pipeline.config.experiments import Experiment, experiment
from gaugeport.pipeline.config.texts import as_typed, as_typed_in_sweep, how_to_quote, is_text, swept_texts
from gaugeport.pipeline.config.validate import check_job
from gaugeport.pipeline.job import JobSpec
from gaugeport.pipeline.paths import data_dir


def jobs_of(
    table: Experiment, profile: str, headline: bool = False, extra: Sequence[str] = ()
) -> list[JobSpec]:
    """Return every job of a table, each once, in the order of its sweeps.

    Args:
        table: The table.
        profile: The profile to compose it at.
        headline: Return only the jobs of its headline part.
        extra: Overrides of every job.

    Raises:
        ValueError: An override is not allowed; the message names it and what is allowed.
    """
    fixed = [f"experiment={table.name}", f"profile={profile}", *extra]
    return _jobs(table.lines(profile, headline), fixed, profile)


def sweep_jobs(overrides: Sequence[str]) -> list[JobSpec]:
    """Return the jobs of a sweep given as on Hydra's command line: the product of its overrides.

    With ``experiment=<table>`` they are the table's own jobs with the other overrides on top: a key given
    here replaces what the table's lines say of it.

    Raises:
        ValueError: An override is not allowed; the message names it and what is allowed.
    """
    given = {_key(o): o.partition("=")[2] for o in overrides}
    profile = given.get("profile", "mini")
    if "experiment" not in given:
        return _jobs([tuple(overrides)], [], profile)
    table = experiment(given.pop("experiment"))
    rest = [o for o in overrides if _key(o) != "experiment"]
    lines = [(*(o for o in line if _key(o) not in given), *rest) for line in table.lines(profile, False)]
    return _jobs(lines, [f"experiment={table.name}"], profile)


def _jobs(lines: Sequence[Sequence[str]], fixed: Sequence[str], profile: str) -> list[JobSpec]:
    """Return the jobs of some lines of overrides, each once."""
    if "," in profile:
        raise ValueError(
            f"profile={profile}: a sweep has one profile, which says how many seeds its tables have"
        )
    counts = _counts(profile)
    jobs: dict[tuple[str, ...], JobSpec] = {}
    composed: dict[tuple[str, ...], bytes] = {}
    for line in lines:
        if any(_counted(o, counts) == [] for o in line):
            continue  # this profile has none of them
        every_pair = any(o.endswith("_ANCHORS") for o in line)
        for overrides in expand([_with_counts(o, counts) for o in as_typed_in_sweep(line)]):
            if every_pair and not _anchor_comes_first(overrides):
                continue  # the same pair the other way round, or a seed with itself
            # where a key is given twice, the last value counts
            all_of_it = tuple({_key(o): o for o in (*as_typed(fixed), *overrides)}.values())
            if all_of_it in jobs:
                continue
            try:
                jobs[all_of_it] = _job_spec(all_of_it, composed)
            except (ValueError, FileNotFoundError) as e:
                hints = [hint for key in swept_texts(line) if (hint := how_to_quote(key)) not in str(e)]
                if len(lines) > 1:
                    hints.append(f"in the table's line `{' '.join(line)}`, one of {len(lines)}")
                if not hints:
                    raise
                kind = ValueError if isinstance(e, ValueError) else FileNotFoundError
                raise kind("; ".join([str(e), *hints])) from e
    return list(jobs.values())


def _counts(profile: str) -> dict[str, list[Any]]:
    """Return what the words in capitals in a table's lines stand for at a profile."""
    node = _config_of_choices((f"profile={profile}",)).profile
    return {
        "SEEDS": list(range(node.seeds)),
        "MANY_SEEDS": list(range(node.many_seeds)),
        "CALIBRATION_SEEDS": list(range(node.calibration_seeds)),
        "STEERING_SEEDS": list(range(node.steering_seeds)),
        "ABLATION_SEEDS": list(range(node.ablation_seeds)),
        "LEARNING_RATES": list(node.learning_rates),
        "NEOX": list(range(node.neox_seeds)),
        "NEOX_PAIRS": list(range(1, node.neox_seeds)),
        "NEOX_ANCHORS": list(range(1, node.neox_seeds - 1)),
        "NEOX_EARLY": list(node.neox_early),
        "DYCK_A": list(range(node.dyck.seeds_a)),
        "DYCK_A_PAIRS": list(range(1, node.dyck.seeds_a)),
        "DYCK_A_ANCHORS": list(range(1, node.dyck.seeds_a - 1)),
        "DYCK_B": list(range(node.dyck.seeds_b)),
        "DYCK_B_PAIRS": list(range(1, node.dyck.seeds_b)),
        "DYCK_B_ANCHORS": list(range(1, node.dyck.seeds_b - 1)),
        "DYCK_MANY_SAMPLES": [node.dyck.many_samples],
        "DYCK_OTHER_LABEL": [{"running": "unmatched", "unmatched": "running"}[node.dyck.depth_label]],
    }


def _anchor_comes_first(overrides: Sequence[str]) -> bool:
    """Return whether the anchor of a pair of seeds is the lower of the two."""
    values = {_key(o): o.partition("=")[2] for o in overrides}
    return int(values["task.anchor"]) < int(values["seed"])


def _with_counts(override: str, counts: dict[str, list[Any]]) -> str:
    values = _counted(override, counts)
    return override if values is None else f"{override.partition('=')[0]}={','.join(map(str, values))}"


def _counted(override: str, counts: dict[str, list[Any]]) -> list[Any] | None:
    """Return what the word in capitals in an override stands for; None if it holds none."""
    return None if is_text(_key(override)) else counts.get(override.partition("=")[2])


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _job_spec(overrides: tuple[str, ...], composed: dict[tuple[str, ...], bytes]) -> JobSpec:
    """Return one job of a sweep; jobs that differ only in fields of their own are composed once.

    Args:
        overrides: All of the job's overrides.
        composed: The sweep's jobs composed so far, pickled (loading one takes a tenth of a deepcopy's time).
    """
    fields = {_key(o): o.partition("=")[2] for o in overrides if _only_sets_a_field(o)}
    rest = (*(o for o in overrides if not _only_sets_a_field(o)), *fields)
    if rest not in composed:
        spec = from_config(_sweep_config(overrides), overrides)
        composed[rest] = pickle.dumps(spec)
        return spec
    spec = pickle.loads(composed[rest])
    values = {k: int(v) if k == "seed" else v for k, v in fields.items()}
    job = dataclasses.replace(spec.job, **values)
    check_job(job)
    return dataclasses.replace(spec, job=job, overrides=overrides)


@functools.cache
def _only_sets_a_field(override: str) -> bool:
    """Return whether an override sets one field of the job, on which nothing else in ``conf/`` depends."""
    if re.fullmatch(r"seed=\d+", override):
        return True
    key, _, value = override.partition("=")
    return key in ("gauge", "matcher", "route") and _is_only_a_name(key, value)


@functools.cache
def _is_only_a_name(group: str, choice: str) -> bool:
    """Return whether a group's choice holds only its own name, as those of gauge, matcher and route do."""
    file = data_dir("conf") / group / f"{choice}.yaml"
    return file.exists() and OmegaConf.load(file) == {"name": choice}


def _sweep_config(overrides: Sequence[str]) -> DictConfig:
    """Compose a job of a sweep: Hydra composes each choice of groups once, values are set on copies of it.

    Hydra too sets values last. Over the 434 jobs of tables a3, a4 and a7, a job takes 3 ms of processor time
    this way, and 95 ms when Hydra composes it (one run). A value that cannot be set goes to Hydra for its
    error.
    """
    groups = {p.name for p in data_dir("conf").iterdir() if p.is_dir()}
    parsed = [_parsed(o) for o in overrides]
    choices = [
        p for p in parsed if p.key_or_group in groups and not _is_only_a_name(p.key_or_group, str(p.value()))
    ]
    config = pickle.loads(_pickled_config(tuple(p.input_line or "" for p in choices)))
    try:
        for p in parsed:
            if p not in choices:
                key = f"{p.key_or_group}.name" if p.key_or_group in groups else p.key_or_group
                OmegaConf.update(config, key, p.value(), force_add=p.is_add())
    except OmegaConfBaseException:
        return compose_config(overrides)
    more = left_open(config, overrides)
    return _sweep_config([*overrides, *more]) if more else config


@functools.lru_cache(maxsize=256)
def _pickled_config(choices: tuple[str, ...]) -> bytes:
    return pickle.dumps(_config_of_choices(choices))


@functools.lru_cache(maxsize=256)
def _config_of_choices(choices: tuple[str, ...]) -> DictConfig:
    return compose_config(choices)


@functools.cache
def _parsed(override: str) -> Override:
    """Parse an override in Hydra's syntax; tables repeat some dozen different ones thousands of times."""
    try:
        return OverridesParser.create().parse_overrides([override])[0]
    except OverrideParseException as e:
        raise ValueError(unreadable(e)) from e


def expand(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the product of a sweep in Hydra's syntax: ``model=a,b seed=0,1`` is four jobs.

    Raises:
        ValueError: A value is named twice for one key.
    """
    choices: list[list[str]] = []
    for parsed in map(_parsed, overrides):
        if not parsed.is_sweep_override():
            assert parsed.input_line is not None
            choices.append([parsed.input_line])
            continue
        key, values = parsed.get_key_element(), list(map(str, parsed.sweep_string_iterator()))
        repeated = [v for v in values if values.count(v) > 1]
        if repeated:
            raise ValueError(f"{key}={','.join(values)} names {repeated[0]} twice; allowed: each once")
        choices.append([f"{key}={v}" for v in values])
    return [tuple(c) for c in itertools.product(*choices)]
