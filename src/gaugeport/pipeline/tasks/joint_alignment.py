"""Table b10: one rotation for weights and activations together, over the weight λ of the activations."""

from __future__ import annotations

from dataclasses import replace

from gaugeport.charts import fold_gains
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.matching.joint import joint_alignment
from gaugeport.pipeline.rotation.toy.sites import activations_at
from gaugeport.pipeline.stages.cohorts import load_own, load_toy
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy
from gaugeport.pipeline.tasks.shared.symmetry import anchor_and_own, search_symmetry
from gaugeport.pipeline.tasks.shared.toy import heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Table b10: one rotation for weights and activations, over the weight λ of the activations."""
    specification, folded = fold_gains(load_toy(built["anchor"])), fold_gains(load_own(job, built))
    seen = heldout(job, job.task["rows"], "effects")
    mine, theirs = (
        {s: activations_at(m, seen, s) for s in job.task["sites"]} for m in (folded, specification)
    )
    search = search_symmetry(job, folded, specification, "orthogonal")
    # of the least sum over tensors, which is what is minimised here; the bar's own choice is by the worst
    # tensor
    baseline = replace(search, symmetry=min(search.configurations, key=lambda c: c.objective).symmetry)
    lambdas = [float(lam) for lam in job.task["lambdas"]]
    found = joint_alignment(folded, specification, baseline, mine, theirs, lambdas, job.task["refine_steps"])
    rows = [{**row, "lam": f"{row['lam']:g}"} for row in found]  # JSON has no infinity
    best = min(row["value"] for row in rows if row["metric"] == "weight_max_mse")
    rows.append({"metric": "bar_p_max_mse_best", "value": best})
    return with_cohort(job, rows)


TASK = Task(measure, anchor_and_own, check_toy)
