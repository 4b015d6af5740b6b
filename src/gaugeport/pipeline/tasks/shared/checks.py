"""What a job may ask for, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path

from gaugeport.charts.chart import family_of
from gaugeport.models.dyck import MAX_DEPTH
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.conditions import check_group
from gaugeport.pipeline.rotation.lenses.circuits import COSTS
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.bars import Thresholds
from gaugeport.pipeline.rotation.toy.sites import sae_sites
from gaugeport.pipeline.stages.cohorts import COHORTS as TOY_COHORTS
from gaugeport.pipeline.stages.own_model import check_own_model, own_model_type
from gaugeport.pipeline.stages.pairs import COHORTS, is_toy

POSITIVE_INTEGERS = (
    "rows",
    "edge_rows",
    "path_rows",
    "region_rows",
    "train_rows",
    "points",
    "starts",
    "refine_steps",
)
"""Keys of Dyck-3 tasks that must be whole numbers from 1."""


LARGEST_PERMUTATIONS = {"rms": "signed_permutation", "layer": "global_sign_permutation"}
"""Kind of norm -> the largest group of permutations that leaves a model's function alone."""


def check_language_model(job: Job) -> None:
    """Refuse Dyck-3 models and strings.

    Raises:
        ValueError: The job's model or data is Dyck-3.
    """
    if "dyck3" in (job.model.name, job.data.name):
        raise ValueError(
            f"task={job.task['name']} with model={job.model.name} data={job.data.name}: "
            "Dyck-3 models are not language models"
        )


def check_gauge(job: Job) -> None:
    """Check that the gauge's group is no larger than the exact one of the job's model.

    A model on the hub or in a package is not known before it is fetched: its measurement checks it.

    Raises:
        ValueError: The group is larger, or the user's own model is refused.
    """
    model_type = job.model.architecture.get("model_type")
    if job.model.path is not None:
        folder = Path(job.model.path)
        if not folder.is_dir():
            return
        check_own_model(folder)
        model_type = own_model_type(folder)
    if model_type is not None:
        check_group(job.gauge, LARGEST_PERMUTATIONS[family_of(model_type).norm])


def check_cohort(job: Job) -> None:
    """Check a job that compares models of any cohort.

    Raises:
        ValueError: The cohort is unknown, or the job's model cannot form one.
    """
    cohort, model = job.task["cohort"], job.model
    if cohort not in COHORTS:
        raise ValueError(f"task.cohort={cohort!r}; allowed: {', '.join(COHORTS)}")
    if is_toy(job):
        return check_toy(job)
    _check_anchor(job)
    if "dyck3" in (model.name, job.data.name):
        raise ValueError(
            f"task.cohort={cohort} with model={model.name} data={job.data.name}; allowed with Dyck-3 models: "
            "task.cohort=A or B, model=dyck3 data=dyck3 training=dyck3"
        )
    one_model = model.path is not None or (model.package is not None and not model.from_hub)
    if cohort == "seeds" and one_model:
        which = f"model={model.name}" if model.path is None else f"model.path={model.path}"
        raise ValueError(
            f"task.cohort=seeds trains models from several seeds, but {which} is one model; "
            "allowed: task.cohort=runs, two fine-tuning runs of it"
        )
    if cohort == "seeds" and model.from_hub and "{seed}" not in model.hub_id:
        raise ValueError(
            f"task.cohort=seeds with model.hub_id={model.hub_id}, one model for all seeds; "
            "allowed: an id with {seed} in it (model=pythia_seeds)"
        )


def check_toy(job: Job) -> None:
    """Check a job on Dyck-3 models.

    Raises:
        ValueError: Names what is wrong and what is allowed.
    """
    _check_toy_model(job)
    _check_toy_task(job)
    _check_anchor(job)


def _check_anchor(job: Job) -> None:
    anchor, cohort = job.task.get("anchor", 0), job.task["cohort"]
    if not isinstance(anchor, int) or anchor < 0 or (cohort == "runs" and anchor):
        allowed = "0, as run B has one other" if cohort == "runs" else "seeds, whole numbers from 0"
        raise ValueError(f"task.anchor={anchor!r} with task.cohort={cohort}; allowed: {allowed}")


def thresholds(job: Job) -> Thresholds:
    """Return the thresholds of the bars.

    Raises:
        ValueError: ``task.thresholds`` has an unknown key or a bad value.
    """
    given, known = job.task["thresholds"], Thresholds.__dataclass_fields__
    unknown = [k for k in given if k not in known]
    if unknown:
        raise ValueError(f"unknown key of task.thresholds: {', '.join(unknown)}; allowed: {', '.join(known)}")
    return Thresholds(**given)


def _check_toy_model(job: Job) -> None:
    task, sizes = job.task["name"], job.model.architecture
    if job.model.path is not None:
        raise ValueError(
            f"task={task} trains its own models: model.path={job.model.path} has no use; leave it out"
        )
    if job.model.name != "dyck3" or job.data.name != "dyck3":
        raise ValueError(
            f"task={task} with model={job.model.name} data={job.data.name}; "
            "allowed: model=dyck3 data=dyck3 training=dyck3"
        )
    if job.data.depth_label not in strings.DEPTH_LABELS:
        raise ValueError(
            f"data.depth_label={job.data.depth_label}; allowed: {', '.join(strings.DEPTH_LABELS)}"
        )
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ValueError(
            f"model.architecture.num_attention_heads={sizes['num_attention_heads']} does not divide "
            f"hidden_size={sizes['hidden_size']}"
        )
    shortest, context = 2 * MAX_DEPTH + 2, sizes["max_position_embeddings"]
    if context < strings.LONG_LENGTHS[1] + 2:
        raise ValueError(
            f"model.architecture.max_position_embeddings={context}; allowed: {strings.LONG_LENGTHS[1] + 2} "
            f"or more, which strings of {strings.LONG_LENGTHS[1]} require"
        )
    if not shortest <= job.data.length <= context:
        raise ValueError(
            f"data.length={job.data.length}; allowed: {shortest} (a nest of the full depth) to {context} "
            "(model.architecture.max_position_embeddings)"
        )


def _check_toy_task(job: Job) -> None:
    task = job.task
    if task["cohort"] not in TOY_COHORTS:
        raise ValueError(f"task.cohort={task['cohort']!r}; allowed: {', '.join(TOY_COHORTS)}")
    for key in (k for k in POSITIVE_INTEGERS if k in task):
        if isinstance(task[key], bool) or not isinstance(task[key], int) or task[key] < 1:
            raise ValueError(f"task.{key}={task[key]!r}; allowed: whole numbers from 1")
    if "threshold" in task and not 0 < task["threshold"] < float("inf"):
        raise ValueError(f"task.threshold={task['threshold']}; allowed: a positive number of nats")
    if "acdc_cost" in task and task["acdc_cost"] not in COSTS:
        raise ValueError(f"task.acdc_cost={task['acdc_cost']!r}; allowed: {', '.join(COSTS)}")
    if any(not float(lam) >= 0 for lam in task.get("lambdas", [])):
        raise ValueError(f"task.lambdas={task['lambdas']}; allowed: numbers from 0, and inf")
    known = sae_sites(job.model.architecture["num_hidden_layers"])
    unknown = [site for site in task.get("sites", []) if site not in known]
    if unknown:
        raise ValueError(f"task.sites: unknown {', '.join(unknown)}; allowed: {', '.join(known)}")
    if "thresholds" in task:
        thresholds(job)


def check_choice(job: Job, key: str, allowed: tuple[object, ...]) -> None:
    """Check that ``task.<key>`` is one of the allowed values.

    Raises:
        ValueError: It is not; the message lists them.
    """
    if job.task[key] not in allowed:
        raise ValueError(f"task.{key}={job.task[key]!r}; allowed: {', '.join(map(str, allowed))}")
