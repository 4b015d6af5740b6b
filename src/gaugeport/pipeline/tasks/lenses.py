"""Table b4: lenses on one Dyck-3 model: weights, circuits, regions, roles; lens 2 is ``dictionaries``.

Paper B, section 3.
"""

from __future__ import annotations

from typing import Any

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import DyckModel
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
    task = job.task
    model = fold_gains(load_own(job, built))
    strings = heldout(job, task["rows"], "effects")
    # 1) weights, and circuits by path patching and by ACDC
    norms = weights.weight_rows(model, strings)
    paths = circuits.path_rows(circuits.path_effects(model, strings), task["threshold"])
    edges = circuits.acdc(model, strings, task["threshold"], task["acdc_cost"])
    acdc = circuits.acdc_rows(edges, model)
    # 2) regions, and roles: fewer strings, because all inputs of all regressions are in memory at once
    region_strings = heldout(job, task["region_rows"], "regions")
    cells = regions.region_rows(model, region_strings, derive(job.seed, "regions"))
    role_strings = heldout(job, max(1, task["region_rows"] // 3), "regressions")
    annotated = roles.role_rows(model, role_strings)
    tensors = roles.tensor_rows(model, role_strings)
    # 3) all of them against ablation
    effect_of = _ablation_effects(model, strings)
    cross = comparison.cross_rows(norms, effect_of, paths, acdc, annotated, cells, task["threshold"])
    return with_cohort(job, [*norms, *paths, *acdc, *cells, *annotated, *tensors, *cross])


def _ablation_effects(model: DyckModel, strings: dict[str, Any]) -> dict[str, float]:
    """Return what mean-ablating each component costs, in nats."""
    ids, labels = strings["input_ids"], strings["labels"]
    patched, means = effects.component_edges(model), components.mean_outputs(model, ids)
    by_edge = effects.measure_effects(model, ids, labels, patched, means)
    return {source: effect for (source, _), effect in by_edge.items()}


TASK = Task(measure, own_stages, check_toy)
