"""``gaugeport tables``: from tables to their jobs, and from the jobs' records back to tables."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaugeport.pipeline.config.compose import JobSpec
from gaugeport.pipeline.config.sweeps import Experiment, experiment, experiment_names, jobs_of, variant_of
from gaugeport.pipeline.execution.tracking import track_table
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.paths import by_number
from gaugeport.pipeline.report.claims import load_claims
from gaugeport.pipeline.report.tables import Table, claims_table, make_all, write_all, write_claims
from gaugeport.pipeline.store.records import Found, read_records


@dataclass(frozen=True)
class Chosen:
    """Tables by id: all ``jobs`` of those ``wanted``, and the jobs ``asked`` for (all of theirs, or the headline's)."""

    experiments: dict[str, Experiment]
    jobs: dict[str, list[JobSpec]]
    wanted: list[str]
    asked: list[JobSpec]
    profile: str
    extra: Sequence[str]

    @property
    def variant(self) -> str:
        """The folder of these tables below those of the default profile."""
        return variant_of(self.profile, self.extra)

    @property
    def options(self) -> str:
        """The options of the command line that chose the profile and overrides."""
        options = [] if self.profile == "mini" else ["--profile", self.profile]
        return shlex.join([*options, *(part for o in self.extra for part in ("--set", o))])

    @property
    def outputs(self) -> Path:
        """Where everything goes."""
        return next(iter(self.jobs.values()))[0].outputs

    def found(self, table_id: str) -> Found:
        """The records of a table."""
        return read_records(self.outputs / "records", [job_id(c.job) for c in self.jobs[table_id]])


def choose(ids: Sequence[str], profile: str, headline: bool, extra: Sequence[str]) -> Chosen:
    """Some tables, or all. Raises ``ValueError`` for one that is not there, naming those that are."""
    named = [experiment(i).id for i in ids]
    found = sorted((experiment(name) for name in experiment_names()), key=lambda e: by_number(e.id))
    every = {e.id: e for e in found}
    wanted = list(dict.fromkeys(named)) or [e.id for e in found if e.headline or not headline]
    jobs = _composed([every[i] for i in wanted], profile, extra, strict=bool(ids))
    if not jobs:
        raise ValueError("no table can be made with these overrides: the warnings say why")
    wanted = [i for i in wanted if i in jobs]
    if headline and (without := [i for i in wanted if not every[i].headline]):
        warnings.warn(f"no headline jobs in {', '.join(without)}: nothing of it is run", stacklevel=2)
    asked = [c for i in wanted for c in (jobs_of(every[i], profile, True, extra) if headline else jobs[i])]
    return Chosen(every, jobs, wanted, asked, profile, extra)


def made(chosen: Chosen) -> dict[str, Table]:
    """The wanted tables that have records, by id, and the others that claims are made of."""
    jobs, folder = dict(chosen.jobs), chosen.outputs / "records"
    mine = {job_id(c.job) for found in jobs.values() for c in found}
    if any(
        p.stem not in mine for p in folder.glob("*.json")
    ):  # else no other table has a record: not worth composing
        others = {claim.table for claim in load_claims()} & set(chosen.experiments) - set(jobs)
        jobs |= _composed([chosen.experiments[i] for i in others], chosen.profile, chosen.extra, strict=False)
    requests = []
    for i in sorted(jobs, key=by_number):
        found = read_records(folder, [job_id(c.job) for c in jobs[i]])
        if found.records:
            requests.append((i, chosen.experiments[i].name, found, chosen.options))
    return {table.id: table for table in make_all(requests)}


def _composed(
    wanted: Sequence[Experiment], profile: str, extra: Sequence[str], strict: bool
) -> dict[str, list[JobSpec]]:
    """The jobs of tables by id; one that cannot be composed raises (``strict``), or is left out with a warning."""
    jobs = {}
    for e in wanted:
        try:
            jobs[e.id] = jobs_of(e, profile, extra=extra)
        except ValueError as error:
            if strict:
                raise
            warnings.warn(f"table {e.id} ({e.name}) is left out: {error}", stacklevel=3)
    return jobs


def write_tables(chosen: Chosen, tables: Mapping[str, Table], claims_of: Sequence[str]) -> Iterator[str]:
    """Write the wanted tables, their figures and the claims of all; yields each as Markdown (claims: of some tables)."""
    wanted = [tables[table_id] for table_id in chosen.wanted if table_id in tables]
    texts = dict(zip([t.id for t in wanted], write_all(wanted, chosen.outputs, chosen.variant), strict=True))
    for table_id in chosen.wanted:
        if table_id in tables:
            yield texts[table_id]
            files = tables[table_id].files(chosen.outputs, chosen.variant)
            try:
                track_table(tables[table_id].name, files, chosen.outputs, chosen.jobs[table_id][0].tracker)
            except Exception as e:  # whatever a tracker does, the table is written
                warnings.warn(f"table {table_id} was written, but tracking it failed: {e}", stacklevel=2)
        else:
            run = f"gaugeport tables {table_id} {chosen.options}".strip()
            yield f"{table_id} {chosen.experiments[table_id].name}: no records; run `{run}`"
    yield write_claims(claims_table(tables, chosen.profile), chosen.outputs, chosen.variant, claims_of)
    where = (chosen.outputs / kind / chosen.variant for kind in ("tables", "figures"))
    yield "tables in {}, figures in {}".format(*where)
