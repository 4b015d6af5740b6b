"""``gaugeport headline``: the papers' claims that fit ten minutes, each printed as soon as it is measured."""

from __future__ import annotations

import dataclasses
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gaugeport.pipeline.config.experiments import experiment
from gaugeport.pipeline.config.sweeps import jobs_of
from gaugeport.pipeline.config.texts import setting
from gaugeport.pipeline.execution.failures import Failure
from gaugeport.pipeline.execution.launchers import cores
from gaugeport.pipeline.execution.plan import Plan, plan
from gaugeport.pipeline.execution.progress import Progress
from gaugeport.pipeline.execution.side_by_side import run_side_by_side
from gaugeport.pipeline.job import JobSpec, job_id
from gaugeport.pipeline.report import figures
from gaugeport.pipeline.report.headline import (
    Entry,
    Result,
    claim_line,
    claims_frame,
    claims_text,
    judge_entry,
)
from gaugeport.pipeline.report.headline_figure import headline_figure
from gaugeport.pipeline.report.narrow import WIDTH
from gaugeport.pipeline.report.tidy import weights
from gaugeport.pipeline.store.records import Record, read_records
from gaugeport.utils.files import real, write_text
from gaugeport.utils.progress import clock

OUT_OF_REACH = (
    "Not measured: the weights cannot be fetched (see below). With a model folder or .gguf file of your own: "
    "`./run.sh headline --model PATH`. Without one, `./run.sh --offline-mini` makes the headline's tables on "
    "models trained here (26 minutes)."
)
"""What stands in place of the claims of a model that cannot be fetched."""

FAILED = "Not all of it was measured: what failed stands below."

LEFT_OUT = (
    "Left out, to be quick: refusal, SAEs, merges, resumed runs, fine-tunes of SmolLM2, the toy of paper B, "
    "and all seeds but one. `./run.sh all` makes every table of the models trained here (5 hours), "
    "`./run.sh tables --profile real` those of SmolLM2."
)
"""What the first command leaves out, and the commands for it."""


class Headline:
    """The claims of the headline, the jobs they are judged on, and what is known of them so far.

    Attributes:
        jobs: Claim -> its jobs by id.
        results: What was judged so far.
        failures: What failed so far.
    """

    def __init__(self, entries: Sequence[Entry], model: Path | None = None, extra: Sequence[str] = ()):
        """Compose the jobs.

        Args:
            entries: The claims.
            model: A model folder or .gguf file to use in place of the model that is fetched.
            extra: Overrides of every job.

        Raises:
            ValueError: An override is not allowed; the message names it and what is allowed.
            FileNotFoundError: ``model`` does not exist.
        """
        self.jobs: dict[Entry, dict[str, JobSpec]] = {}
        self.results: dict[Entry, Result] = {}
        self.failures: list[Failure] = []
        self._records: dict[str, Record] = {}
        self._began = time.monotonic()
        own = [] if model is None else [setting("model.path", str(real(model)))]
        for entry in entries:
            if entry.group.fetched and model is not None:
                entry = dataclasses.replace(entry, group=dataclasses.replace(entry.group, model=model.name))
            table = dataclasses.replace(experiment(entry.claim.table), sweeps=entry.jobs)
            overrides = ["tracker=none", *(own if entry.group.fetched else []), *extra]
            specs = jobs_of(table, entry.group.profile, extra=overrides)
            self.jobs[entry] = {job_id(spec.job): spec for spec in specs}

    @property
    def outputs(self) -> Path:
        """The folder that everything goes to."""
        return next(spec.outputs for specs in self.jobs.values() for spec in specs.values())

    def run(self, processes: int | None = None) -> None:
        """Run what is missing, group by group, and print every claim once all of its jobs are done.

        Args:
            processes: How many groups run side by side; one per core when None.
        """
        todo = plan([spec for specs in self.jobs.values() for spec in specs.values()])
        groups: dict[str, list[list[JobSpec]]] = {}
        for entry, specs in self.jobs.items():
            if self._waits(entry, todo):
                groups.setdefault(entry.group.id, []).append(list(specs.values()))
            else:
                self._judge(entry)
        if not groups:
            return
        n = min(processes or cores(), len(groups))
        progress = Progress(todo, n)

        def announce() -> None:
            for entry in self.jobs:
                if entry not in self.results and not self._waits(entry, todo):
                    elapsed = clock(time.monotonic() - self._began)
                    progress.say(f"{elapsed:>6}  {claim_line(self._judge(entry))}")

        def ended(failures: list[Failure]) -> None:
            self.failures += failures
            progress.expect(todo.without(failure.step.key for failure in self.failures))

        with progress.watch("headline", list(todo.steps.values())):
            run_side_by_side(list(groups.values()), n, announce, ended)

    def screen(self) -> str:
        """Write the table, its numbers and the figure; return the screen that the command ends with."""
        table = self.outputs / "tables" / "headline.md"
        figure = self.outputs / "figures" / "headline.png"
        results = [self.results[entry] for entry in self.jobs if entry in self.results]
        claims = claims_text(results, self._missing())
        texts = (weights(self._records.values()), LEFT_OUT)
        notes = "\n".join(line for text in texts for line in textwrap.wrap(text, WIDTH))
        write_text(table, f"```\n{claims}\n```\n\n{notes}\n")
        if results:
            numbers = claims_frame(results).to_csv(index=False, float_format="%.6g", lineterminator="\n")
            write_text(table.with_suffix(".csv"), numbers)
            figures.save(headline_figure(results), figure)
        elapsed = clock(time.monotonic() - self._began)
        return f"{claims}\n\n{notes}\n\ntable    {table}\nfigure   {figure}\nmeasured in {elapsed}"

    def _waits(self, entry: Entry, todo: Plan) -> bool:
        """Return whether a job of the claim is planned and not done."""
        return any(i in todo.steps and not todo.steps[i].done for i in self.jobs[entry])

    def _judge(self, entry: Entry) -> Result:
        records = read_records(self.outputs / "records", self.jobs[entry]).records
        self._records |= {record.id: record for record in records}
        self.results[entry] = judge_entry(entry, experiment(entry.claim.table).name, records)
        return self.results[entry]

    def _missing(self) -> Mapping[str, str]:
        """Return heading of a group -> why claims of it were not measured."""
        reasons = {}
        for failure in self.failures:
            out_of_reach = failure.error.message.startswith("ConnectionError")
            for entry, specs in self.jobs.items():
                if entry not in self.results and failure.step.composed in specs.values():
                    reasons[entry.group.heading] = OUT_OF_REACH if out_of_reach else FAILED
        return reasons
