"""Read what ``conf/experiment/`` declares: every table's id, name and lines of jobs."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gaugeport.pipeline.paths import by_number, data_dir
from gaugeport.pipeline.store.store import digest

OWN_LINES = ("real", "toy")
"""Profiles whose jobs are declared apart: each of them has some tables only, at many hours a model."""

Lines = tuple[tuple[str, ...], ...]
"""Overrides of jobs: a sweep a line, an override an item."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One table.

    Attributes:
        id: Letter and number, such as a3.
        name: The name of its files, such as trajectory.
        sweeps: The lines of overrides whose products are its jobs.
        headline: The same of its headline part.
        own: The same at each of :data:`OWN_LINES`; none where the table is not of that profile.
    """

    id: str
    name: str
    sweeps: Lines
    headline: Lines
    own: Mapping[str, Lines]

    def lines(self, profile: str, headline: bool) -> Lines:
        """Return the lines of its jobs at a profile; none where it has no jobs there."""
        if profile in OWN_LINES:
            return () if headline else self.own[profile]
        return self.headline if headline else self.sweeps


def experiment_names() -> list[str]:
    """Return the names of all tables: one file each in ``conf/experiment/``."""
    return sorted(p.stem for p in (data_dir("conf") / "experiment").glob("*.yaml"))


def experiment(name_or_id: str) -> Experiment:
    """Return a table's experiment by name or id.

    Raises:
        ValueError: No table has that name or id, or two tables share one; the message lists what there is.
    """
    known = list(_experiments(data_dir("conf")).values())
    ids = [e.id for e in known]
    for e in known:
        if not re.fullmatch(r"[a-z]\d+", e.id) or ids.count(e.id) > 1:
            raise ValueError(
                f"conf/experiment/{e.name}.yaml: id {e.id!r}; allowed: a letter and a number that no other "
                "table has"
            )
    for e in known:
        if name_or_id in (e.id, e.name):
            return e
    listed = ", ".join(f"{e.id} ({e.name})" for e in sorted(known, key=lambda e: by_number(e.id)))
    raise ValueError(f"unknown table {name_or_id!r}; allowed: {listed}")


def tables_of(profile: str) -> list[str]:
    """Return the ids of the tables that have jobs at a profile, in order."""
    ids = [e.id for e in _experiments(data_dir("conf")).values() if e.lines(profile, headline=False)]
    return sorted(ids, key=by_number)


@functools.cache
def _experiments(conf: Path) -> dict[str, Experiment]:
    known = {}
    for name in experiment_names():
        node = OmegaConf.load(conf / "experiment" / f"{name}.yaml").experiment  # type: ignore[union-attr]
        own = {profile: _lines(node.get(profile, ())) for profile in OWN_LINES}
        known[name] = Experiment(node.id, name, _lines(node.sweeps), _lines(node.headline), own)
    return known


def _lines(node: Iterable[Any]) -> Lines:
    return tuple(tuple(str(line).split()) for line in node)


def variant_of(profile: str, extra: Sequence[str]) -> str:
    """Return the subfolder of a table's files: "" for the default ones, so that no other run replaces them.

    Args:
        profile: The profile the table is made at.
        extra: Overrides of every job; those that change no result do not count.
    """
    changes = sorted(changing(extra))
    parts = [profile] if profile != "mini" or changes else []
    return "-".join([*parts, *([digest(changes)[:8]] if changes else [])])


def changing(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that can change a result: not those of trackers, places and memory."""
    return [o for o in overrides if not o.startswith(("tracker=", "paths.", "measurement.models_in_memory="))]
