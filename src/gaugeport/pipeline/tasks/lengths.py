"""Table b11: accuracy of a Dyck-3 model on strings longer than any trained on."""

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
    model, n = load_own(job, built), job.data.documents // len(strings.SPLITS)
    context = job.model.architecture["max_position_embeddings"]
    sets = {
        "trained": heldout(job, n, "lengths"),
        "longer": strings.heldout("long", n, longest_trained(job), context, derive(job.data.seed, "lengths")),
    }
    rows: list[Row] = []
    for lengths, held in sets.items():
        found = accuracy(model, held)
        rows += [{"metric": f"{head}_accuracy", "lengths": lengths, "value": v} for head, v in found.items()]
    return [{"cohort": job.task["cohort"], "longest": longest_trained(job), **row} for row in rows]


TASK = Task(measure, own_stages, check_toy)
