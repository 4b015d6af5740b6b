"""``gaugeport tables``: from tables to their jobs, and from the jobs' records back to tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaugeport.compose import Composed
from gaugeport.jobs import job_id
from gaugeport.records import Found, read_records
from gaugeport.report.claims import load_claims
from gaugeport.report.tables import Table, claims_table, make, write, write_claims
from gaugeport.report.tidy import by_number
from gaugeport.sweeps import Experiment, experiment, experiment_names, jobs_of, variant_of
from gaugeport.tracking import track_table


@dataclass(frozen=True)
class Chosen:
    """Tables by id; all ``jobs`` of those wanted and of those that claims are made of; the ids ``wanted``, and the jobs ``asked`` for (of the wanted
    ones: all, or the headline's)."""

    experiments: dict[str, Experiment]
    jobs: dict[str, list[Composed]]
    wanted: list[str]
    asked: list[Composed]
    profile: str
    variant: str

    @property
    def outputs(self) -> Path:
        """Where everything goes."""
        return next(iter(self.jobs.values()))[0].outputs

    def found(self, table_id: str) -> Found:
        """The records of a table."""
        return read_records(self.outputs / "records", [job_id(c.job) for c in self.jobs[table_id]])


def choose(ids: Sequence[str], profile: str, headline: bool, extra: Sequence[str]) -> Chosen:
    """Some tables, or all. Raises ``ValueError`` for one that is not there, naming those that are."""
    wanted = [experiment(i).id for i in ids]
    found = sorted((experiment(name) for name in experiment_names()), key=lambda e: by_number(e.id))
    every = {e.id: e for e in found}
    wanted = wanted or [e.id for e in found if e.headline or not headline]
    needed = {*wanted, *(claim.table for claim in load_claims())}
    jobs = {e.id: jobs_of(e, profile, extra=extra) for e in found if e.id in needed}
    asked = [c for i in wanted for c in (jobs_of(every[i], profile, True, extra) if headline else jobs[i])]
    return Chosen(every, jobs, wanted, asked, profile, variant_of(profile, extra))


def made(chosen: Chosen) -> dict[str, Table]:
    """The tables that have records, by id."""
    found = {i: chosen.found(i) for i in chosen.jobs}
    return {i: make(i, chosen.experiments[i].name, records) for i, records in found.items() if records.records}


def write_tables(chosen: Chosen, tables: Mapping[str, Table], claims_of: Sequence[str]) -> Iterator[str]:
    """Write the wanted tables, their figures and the claims of all; yields each as Markdown (claims: of some tables)."""
    for table_id in chosen.wanted:
        if table_id in tables:
            yield write(tables[table_id], chosen.outputs, chosen.variant)
            files = tables[table_id].files(chosen.outputs, chosen.variant)
            track_table(tables[table_id].name, files, chosen.outputs, chosen.jobs[table_id][0].tracker)
        else:
            run = f"`gaugeport tables {table_id} --profile {chosen.profile}`"
            yield f"{table_id} {chosen.experiments[table_id].name}: no records; run {run}"
    yield write_claims(claims_table(tables, chosen.profile), chosen.outputs, chosen.variant, claims_of)
    where = (chosen.outputs / kind / chosen.variant for kind in ("tables", "figures"))
    yield "tables in {}, figures in {}".format(*where)
