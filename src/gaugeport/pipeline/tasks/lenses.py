"""Table b4: lenses on one Dyck-3 model: weights, circuits, regions, roles; ``dictionaries`` has the fifth."""

from __future__ import annotations

from gaugeport.charts import fold_gains
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.lenses import circuits, comparison, regions, roles, weights
from gaugeport.pipeline.rotation.toy import components, effects
from gaugeport.pipeline.stages.cohorts import load_own, own_stages
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy
from gaugeport.pipeline.tasks.shared.toy import heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.utils.seeds import derive


def measure(job: Job, built: Built) -> list[Row]:
    """Return what lenses 1, 3, 4 and 5 say of every component, and where they disagree."""
    model, threshold = fold_gains(load_own(job, built)), job.task["threshold"]
    seen = heldout(job, job.task["rows"], "effects")
    ids, labels = seen["input_ids"], seen["labels"]
    many = heldout(job, job.task["region_rows"], "regions")
    fewer = heldout(
        job, max(1, job.task["region_rows"] // 3), "regressions"
    )  # all sources of all of them are in memory
    ablation = effects.measure_effects(
        model, ids, labels, effects.component_edges(model), components.mean_outputs(model, ids)
    )
    norms = weights.weight_rows(model, seen)
    paths = circuits.path_rows(circuits.path_effects(model, seen), threshold)
    acdc = circuits.acdc_rows(circuits.acdc(model, seen, threshold, job.task["acdc_cost"]), model)
    cells = regions.region_rows(model, many, derive(job.seed, "regions"))
    annotated = roles.role_rows(model, fewer)
    named = {source: effect for (source, _), effect in ablation.items()}
    cross = comparison.cross_rows(norms, named, paths, acdc, annotated, cells, threshold)
    found = [*norms, *paths, *acdc, *cells, *annotated, *roles.tensor_rows(model, fewer), *cross]
    return with_cohort(job, found)


TASK = Task(measure, own_stages, check_toy)
