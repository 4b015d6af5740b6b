"""Find the jobs of tables, make the tables of the jobs' records, and write them."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gaugeport.pipeline.config.experiments import (
    Experiment,
    changing,
    experiment,
    experiment_names,
    tables_of,
    variant_of,
)
from gaugeport.pipeline.config.stored_jobs import is_kept, jobs_of
from gaugeport.pipeline.execution.tracking import track_table
from gaugeport.pipeline.job import JobSpec, job_id
from gaugeport.pipeline.paths import by_number
from gaugeport.pipeline.report.claims import load_claims
from gaugeport.pipeline.report.forked import map_forked
from gaugeport.pipeline.report.tables import Table, claims_table, make_all, write_all, write_claims
from gaugeport.pipeline.store.records import Found, has_record, read_records

if TYPE_CHECKING:
    from gaugeport.pipeline.execution.failures import Failure


@dataclass(frozen=True)
class Chosen:
    """Some tables and their jobs.

    Attributes:
        experiments: Every table there is, by id.
        jobs: All jobs of the wanted tables, by id.
        wanted: The ids of the wanted tables.
        asked: The jobs that are to be run: all of the wanted tables', or those of their headlines.
        profile: The profile of the jobs.
        extra: Overrides of every job.
    """

    experiments: dict[str, Experiment]
    jobs: dict[str, list[JobSpec]]
    wanted: list[str]
    asked: list[JobSpec]
    profile: str
    extra: Sequence[str]

    @property
    def variant(self) -> str:
        """The subfolder of these tables' files; "" for the default profile."""
        return variant_of(self.profile, self.extra)

    @property
    def options(self) -> str:
        """The options of the command line that chose the profile and overrides."""
        return self._options(self.extra)

    @property
    def table_options(self) -> str:
        """Those of them that decide what a table says, which its file names."""
        return self._options(changing(self.extra))

    def _options(self, overrides: Sequence[str]) -> str:
        options = [] if self.profile == "mini" else ["--profile", self.profile]
        return shlex.join([*options, *(part for o in overrides for part in ("--set", o))])

    @property
    def outputs(self) -> Path:
        """The folder that everything goes to."""
        return next(iter(self.jobs.values()))[0].outputs

    def found(self, table_id: str) -> Found:
        """Return the records of a table."""
        return read_records(self.outputs / "records", [job_id(spec.job) for spec in self.jobs[table_id]])


def choose(
    ids: Sequence[str], profile: str, headline: bool, extra: Sequence[str], keep: bool = True
) -> Chosen:
    """Choose some tables, and compose their jobs.

    Args:
        ids: Ids or names of tables; all tables when empty.
        profile: The profile of their jobs.
        headline: Ask for the headline jobs only.
        extra: Overrides of every job.
        keep: Keep the jobs for later commands.

    Raises:
        ValueError: There is no such table, or no table can be made with these overrides.
    """
    named = [experiment(i).id for i in ids]
    experiments = sorted((experiment(name) for name in experiment_names()), key=lambda e: by_number(e.id))
    every = {e.id: e for e in experiments}
    wanted = list(dict.fromkeys(named)) or [e.id for e in experiments if e.lines(profile, headline)]
    _check_has_jobs(wanted, tables_of(profile), profile)
    jobs = _composed([every[i] for i in wanted], profile, extra, strict=bool(ids), keep=keep)
    jobs = {i: specs for i, specs in jobs.items() if specs}  # a profile may count none of a table's jobs
    if ids:
        _check_has_jobs(wanted, list(jobs), profile)
    if not jobs:
        raise ValueError("no table can be made with these overrides: the warnings say why")
    wanted = [i for i in wanted if i in jobs]
    if headline and (without := [i for i in wanted if not every[i].lines(profile, True)]):
        warnings.warn(f"no headline jobs in {', '.join(without)}: nothing of it is run", stacklevel=2)
    asked = []
    for i in wanted:
        asked += jobs_of(every[i], profile, True, extra, keep) if headline else jobs[i]
    return Chosen(every, jobs, wanted, asked, profile, extra)


def _check_has_jobs(wanted: Sequence[str], there: Sequence[str], profile: str) -> None:
    """Raise ``ValueError`` for wanted tables that are not among those with jobs at the profile."""
    if without := [i for i in wanted if i not in there]:
        raise ValueError(
            f"profile {profile} has no jobs of {', '.join(without)}; allowed: {', '.join(there) or 'none'}"
        )


def run_missing(chosen: Chosen, launcher: str | None, processes: int | None) -> list[Failure]:
    """Run the jobs asked for whose records are missing; return what failed.

    Args:
        chosen: The tables.
        launcher: The name of one of Hydra's launchers; processes of this machine when None.
        processes: How many jobs run side by side; one per core when None.

    Raises:
        ValueError: There is no such launcher.
    """
    folder = chosen.outputs / "records"
    if launcher is None and all(has_record(folder, job_id(spec.job)) for spec in chosen.asked):
        return []  # without importing what runs jobs, which takes seconds
    from gaugeport.pipeline.execution.launchers import by_hydra, local
    from gaugeport.pipeline.execution.runner import run_all

    launch = by_hydra([f"hydra/launcher={launcher}"]) if launcher else local(processes)
    return run_all(chosen.asked, launch, processes)


def made(chosen: Chosen) -> dict[str, Table]:
    """Make the wanted tables that have records, by id, and the others that claims are made of."""
    jobs, folder = dict(chosen.jobs), chosen.outputs / "records"
    own_records = {job_id(spec.job) for specs in jobs.values() for spec in specs}
    if any(path.stem not in own_records for path in folder.glob("*.json")):
        # only then can another table have a record
        others = {claim.table for claim in load_claims()} & set(chosen.experiments) - set(jobs)
        jobs |= _composed([chosen.experiments[i] for i in others], chosen.profile, chosen.extra, strict=False)
    requests = []
    for i in sorted(jobs, key=by_number):
        found = read_records(folder, [job_id(spec.job) for spec in jobs[i]])
        if found.records:
            requests.append((i, chosen.experiments[i].name, found, chosen.table_options))
    return {table.id: table for table in make_all(requests)}


def _composed(
    wanted: Sequence[Experiment], profile: str, extra: Sequence[str], strict: bool, keep: bool = True
) -> dict[str, list[JobSpec]]:
    """Compose the jobs of tables, by id. One that cannot be composed raises (``strict``), or is left out."""
    arguments = [(e, profile, extra, keep) for e in wanted]
    if all(is_kept(e, profile, extra=extra) for e in wanted):
        composed = [_jobs_or_error(*a) for a in arguments]
    else:
        from gaugeport.pipeline.config import sweeps  # noqa: F401  imported once, before the processes fork

        composed = map_forked(_jobs_or_error, arguments)
    jobs = {}
    for e, specs in zip(wanted, composed, strict=True):
        if not isinstance(specs, ValueError):
            jobs[e.id] = specs
        elif strict:
            raise specs
        else:
            warnings.warn(f"table {e.id} ({e.name}) is left out: {specs}", stacklevel=3)
    return jobs


def _jobs_or_error(
    e: Experiment, profile: str, extra: Sequence[str], keep: bool
) -> list[JobSpec] | ValueError:
    try:
        return jobs_of(e, profile, extra=extra, keep=keep)
    except ValueError as error:
        return error


def write_tables(chosen: Chosen, tables: Mapping[str, Table]) -> Table:
    """Write the wanted tables, their figures and the claims of all tables; return the claims."""
    wanted = [tables[i] for i in chosen.wanted if i in tables]
    write_all(wanted, chosen.outputs, chosen.variant)
    for table in wanted:
        files = table.files(chosen.outputs, chosen.variant)
        try:
            track_table(table.name, files, chosen.outputs, chosen.jobs[table.id][0].tracker)
        except Exception as e:  # whatever a tracker does, the table is written
            warnings.warn(f"table {table.id} was written, but tracking it failed: {e}", stacklevel=2)
    claims = claims_table(tables, chosen.profile, tables_of(chosen.profile))
    write_claims(claims, chosen.outputs, chosen.variant, ())
    return claims
