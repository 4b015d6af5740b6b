"""Table b4, lens 2: SAEs at the sites of one Dyck-3 model and transcoders over its MLPs."""

from __future__ import annotations

from typing import Any

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.lenses import dictionaries
from gaugeport.pipeline.rotation.lenses.transcoders import train_transcoder
from gaugeport.pipeline.rotation.toy.sites import TRANSCODER_PLACES, activations_at
from gaugeport.pipeline.stages.cohorts import load_own, own_stages
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy
from gaugeport.pipeline.tasks.shared.toy import heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Return the held-out quality of an SAE at every site and expansion and of a transcoder per MLP."""
    model, task = fold_gains(load_own(job, built)), job.task
    train, held = heldout(job, task["train_rows"], "dictionaries"), heldout(job, task["rows"], "effects")
    rows: list[Row] = []
    for site, expansions in task["sites"].items():
        x, y = (activations_at(model, r, site) for r in (train, held))
        for expansion in expansions:
            trained_sae = dictionaries.train_dictionary(x, task["sae"], expansion, job.seed, site)
            rows += dictionaries.dictionary_rows(trained_sae, site, y, text={"expansion": expansion})
    for layer in range(model.config.num_hidden_layers):
        rows += _transcoder_rows(job, model, layer, train, held)
    return with_cohort(job, rows)


def _transcoder_rows(job: Job, model: DyckModel, layer: int, train: Any, held: Any) -> list[Row]:
    def read_and_written(rows: Any) -> list[Any]:
        return [activations_at(model, rows, f"{end}_{layer}") for end in TRANSCODER_PLACES]

    (x, y), (x_held, y_held) = read_and_written(train), read_and_written(held)
    rows: list[Row] = []
    for expansion in job.task["transcoders"]:
        transcoder = train_transcoder(x, y, job.task["sae"], expansion, job.seed)
        rows += dictionaries.dictionary_rows(
            transcoder, f"L{layer}M", x_held, y_held, {"expansion": expansion}
        )
    return rows


TASK = Task(measure, own_stages, check_toy)
