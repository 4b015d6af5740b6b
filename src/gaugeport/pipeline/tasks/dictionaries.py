"""Table b4, lens 2: SAEs at the sites of one Dyck-3 model and transcoders over its MLPs.

Paper B, section 3.2.
"""

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
    train = heldout(job, task["train_rows"], "dictionaries")
    test = heldout(job, task["rows"], "effects")
    rows: list[Row] = []
    for site, expansions in task["sites"].items():
        x, x_test = activations_at(model, train, site), activations_at(model, test, site)
        for expansion in expansions:
            sae = dictionaries.train_dictionary(x, task["sae"], expansion, job.seed, site)
            rows += dictionaries.dictionary_rows(sae, site, x_test, text={"expansion": expansion})
    for layer in range(model.config.num_hidden_layers):
        rows += _transcoder_rows(job, model, layer, train, test)
    return with_cohort(job, rows)


def _transcoder_rows(
    job: Job, model: DyckModel, layer: int, train: dict[str, Any], test: dict[str, Any]
) -> list[Row]:
    """Return the held-out quality of one MLP's transcoder at every expansion."""
    x, y = _read_and_written(model, layer, train)
    x_test, y_test = _read_and_written(model, layer, test)
    rows: list[Row] = []
    for expansion in job.task["transcoders"]:
        transcoder = train_transcoder(x, y, job.task["sae"], expansion, job.seed)
        of_layer = f"L{layer}M"
        rows += dictionaries.dictionary_rows(transcoder, of_layer, x_test, y_test, {"expansion": expansion})
    return rows


def _read_and_written(model: DyckModel, layer: int, strings: dict[str, Any]) -> list[Any]:
    """Return what an MLP reads and what it writes."""
    return [activations_at(model, strings, f"{place}_{layer}") for place in TRANSCODER_PLACES]


TASK = Task(measure, own_stages, check_toy)
