"""Table b10: one rotation for weights and activations together, over the weight λ of the activations.

Paper B, section 9.5.
"""

from __future__ import annotations

from dataclasses import replace

from gaugeport.charts import fold_gains
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.matching.joint import joint_alignment
from gaugeport.pipeline.rotation.toy.sites import activations_at
from gaugeport.pipeline.stages.cohorts import load_own, load_toy
from gaugeport.pipeline.stages.pairs import pair_stages, stage_of
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy
from gaugeport.pipeline.tasks.shared.symmetry import search_symmetry
from gaugeport.pipeline.tasks.shared.toy import heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Return how far one rotation brings weights and activations together, for every λ."""
    task = job.task
    # 1) both models and their activations on the same strings
    anchor = load_toy(built[stage_of(job, "anchor")])
    specification, model = fold_gains(anchor), fold_gains(load_own(job, built))
    strings = heldout(job, task["rows"], "effects")
    of_model, of_specification = (
        {site: activations_at(m, strings, site) for site in task["sites"]} for m in (model, specification)
    )
    # 2) start from the configuration with the least sum over tensors, the objective here; Bar P's own search
    # chooses by the worst tensor
    search = search_symmetry(job, model, specification, "orthogonal")
    least = min(search.configurations, key=lambda c: c.objective)
    start = replace(search, symmetry=least.symmetry)
    # 3) one rotation for every λ
    lambdas = [float(lam) for lam in task["lambdas"]]
    rows = joint_alignment(
        model, specification, start, of_model, of_specification, lambdas, task["refine_steps"]
    )
    rows = [{**row, "lam": f"{row['lam']:g}"} for row in rows]  # JSON has no infinity
    best = min(row["value"] for row in rows if row["metric"] == "weight_max_mse")
    return with_cohort(job, [*rows, {"metric": "bar_p_max_mse_best", "value": best}])


TASK = Task(measure, pair_stages, check_toy)
