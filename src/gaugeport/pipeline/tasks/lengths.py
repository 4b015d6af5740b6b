"""Table b11: accuracy of a Dyck-3 model on strings longer than any trained on (paper B, appendix A)."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.stages.cohorts import accuracy, load_own, longest_trained, own_stages
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy
from gaugeport.pipeline.tasks.shared.toy import heldout
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.utils.seeds import derive


def measure(job: Job, built: Built) -> list[Row]:
    """Return each head's accuracy on held-out strings of the trained lengths and on those of 50 to 60."""
    model = load_own(job, built)
    n, longest = job.data.documents // len(strings.SPLITS), longest_trained(job)
    context, seed = job.model.architecture["max_position_embeddings"], derive(job.data.seed, "lengths")
    drawn = {
        "trained": heldout(job, n, "lengths"),
        "longer": strings.heldout("long", n, longest, context, seed, job.data.depth_label),
    }
    rows: list[Row] = []
    for lengths, some in drawn.items():
        for head, value in accuracy(model, some).items():
            rows.append({"metric": f"{head}_accuracy", "lengths": lengths, "value": value})
    return [{"cohort": job.task["cohort"], "longest": longest, **row} for row in rows]


TASK = Task(measure, own_stages, check_toy)
