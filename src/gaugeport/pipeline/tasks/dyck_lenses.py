"""Jobs of the five lenses on one Dyck-3 model (b4): weights, circuits, regions and roles; and dictionaries at its sites."""

from __future__ import annotations

from typing import Any

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.lenses import circuits, crosslens, dictionaries, regions, roles, weights
from gaugeport.pipeline.rotation.lenses.transcoders import train_transcoder
from gaugeport.pipeline.rotation.toy import components, effects
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.dyck import heldout, trained
from gaugeport.utils.seeds import derive

Row = dict[str, Any]


def measure_lenses(job: Job, store: Store) -> list[Row]:
    """Every component of the job's model through lenses 1, 3, 4 and 5, and the cross-lens table with its disagreements."""
    model, threshold = fold_gains(trained(job, store)), job.task["threshold"]
    seen = heldout(job, job.task["rows"], "effects")
    ids, labels = seen["input_ids"], seen["labels"]
    many = heldout(job, job.task["region_rows"], "regions")
    fewer = heldout(
        job, max(1, job.task["region_rows"] // 3), "regressions"
    )  # all sources of all of them are in memory
    ablation = effects.measured(
        model, ids, labels, effects.component_edges(model), components.means(model, ids)
    )
    norms = weights.weight_rows(model, seen)
    paths = circuits.path_rows(circuits.path_effects(model, seen), threshold)
    acdc = circuits.acdc_rows(circuits.acdc(model, seen, threshold, job.task["acdc_cost"]), model)
    cells = regions.region_rows(model, many, derive(job.seed, "regions"))
    annotated = roles.role_rows(model, fewer)
    named = {source: effect for (source, _), effect in ablation.items()}
    cross = crosslens.cross_rows(norms, named, paths, acdc, annotated, cells, threshold)
    found = [*norms, *paths, *acdc, *cells, *annotated, *roles.tensor_rows(model, fewer), *cross]
    return [{"cohort": job.task["cohort"], **row} for row in found]


def measure_dictionaries(job: Job, store: Store) -> list[Row]:
    """Lens 2: an SAE at every site and expansion of ``task``, a transcoder over every MLP, on held-out tokens."""
    model, task = fold_gains(trained(job, store)), job.task
    train, held = heldout(job, task["train_rows"], "dictionaries"), heldout(job, task["rows"], "effects")
    rows: list[Row] = []
    for site, expansions in task["sites"].items():
        x, y = (dictionaries.activations_at(model, r, site) for r in (train, held))
        for expansion in expansions:
            trained_sae = dictionaries.train_dictionary(x, task["sae"], expansion, job.seed, site)
            rows += dictionaries.dictionary_rows(trained_sae, site, y, text={"expansion": expansion})
    for layer in range(model.config.num_hidden_layers):
        rows += _transcoder_rows(job, model, layer, train, held)
    return [{"cohort": task["cohort"], **row} for row in rows]


def _transcoder_rows(job: Job, model: DyckModel, layer: int, train: Any, held: Any) -> list[Row]:
    def ends(rows: Any) -> list[Any]:
        return [dictionaries.activations_at(model, rows, f"{end}_{layer}") for end in dictionaries.ENDS]

    (x, y), (x_held, y_held) = ends(train), ends(held)
    rows: list[Row] = []
    for expansion in job.task["transcoders"]:
        transcoder = train_transcoder(x, y, job.task["sae"], expansion, job.seed)
        rows += dictionaries.dictionary_rows(
            transcoder, f"L{layer}M", x_held, y_held, {"expansion": expansion}
        )
    return rows
