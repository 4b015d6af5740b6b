"""Table b7: whether the latents of the anchor's SAE fire on the same tokens of another model, by group.

Paper B, section 8.5.
"""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.features.firing import firing_rows
from gaugeport.pipeline.rotation.features.universality import fit_maps
from gaugeport.pipeline.stages.pair_saes import load_saes
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.streams import (
    check_pair_with_saes,
    paired_streams,
    stages_with_anchor_saes,
)
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Return how the anchor's latents fire on the other model, by site and group."""
    saes, rows = load_saes(built["anchor_saes"]), []
    for site, fit, (test_a, test_b) in paired_streams(job, built):
        measured = firing_rows(saes[site], test_a, test_b, fit_maps(*fit), job.task["recovered"])
        rows += [{"cohort": job.task["cohort"], "site": site, **row} for row in measured]
    return rows


TASK = Task(measure, stages_with_anchor_saes, check_pair_with_saes)
