"""Turn a composed config into a job, or raise an error that names the bad value and the allowed ones."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoConfig
from transformers.trainer_utils import SchedulerType

from gaugeport.alignment.matchers import combinations, default_matchers
from gaugeport.alignment.routes import ROUTES
from gaugeport.models.gguf_files import is_gguf
from gaugeport.pipeline.config.defaults import complete
from gaugeport.pipeline.config.texts import how_to_quote
from gaugeport.pipeline.job import UNCOUNTED_DEFAULTS, Job, Model
from gaugeport.pipeline.measures.labelled_prompts import check_template
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.stages.evidence import DTYPES
from gaugeport.pipeline.stages.fetched import packaged_file
from gaugeport.pipeline.stages.models import is_copy
from gaugeport.pipeline.stages.own_model import check_own_model
from gaugeport.pipeline.stages.rows import is_converted, is_pretrained
from gaugeport.pipeline.tasks.registry import task_named, task_of
from gaugeport.streams.activations import check_sites
from gaugeport.streams.massive import TREATMENTS
from gaugeport.utils.files import real

NOT_THE_JOB = ("paths", "tracker", "experiment", "stage", "hydra")
"""Config nodes that are not part of a job's result."""

DATA_NAMES = ("mini", "docs", "text", "hub", "dyck3")
"""Where texts can come from."""

TREATS_ALL_TOKENS = ("adamw_resume", "calibration")
"""Tasks that do not read ``measurement.massive``: one trains, the other measures every treatment."""

UNUSUAL = frozenset(",'\"\\")
"""Characters in a path that may have been meant for a shell, or for Hydra."""

POSITIVE_COUNTS = ("steps", "batch_size", "save_every")


def job_from(config: DictConfig) -> Job:
    """Return the job of a composed config.

    Raises:
        ValueError: A key or value is not allowed, or a model folder is refused; the message names it and
            what is allowed.
        FileNotFoundError: A local path does not exist, or a model folder lacks something.
    """
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        _known("config key", resolved, [*Job.__dataclass_fields__, *NOT_THE_JOB])
        values: dict[Any, Any] = {k: v for k, v in resolved.items() if k not in NOT_THE_JOB}
        values |= {k: resolved[k]["name"] for k in ("gauge", "matcher", "route", "profile")}
        job = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Job), _literal(values)))
    except OmegaConfBaseException as e:
        where = getattr(e, "full_key", None)
        fields = getattr(getattr(e, "object_type", None), "__dataclass_fields__", {})
        allowed = "" if str(where).split(".")[-1] in fields else f"; allowed keys there: {', '.join(fields)}"
        raise ValueError(f"bad config value at {where}: {str(e).splitlines()[0]}{allowed}") from e
    assert isinstance(job, Job)
    complete(job)
    check_job(job)
    for key, path in job.files().items():
        if not Path(path).exists():
            texts = "a .jsonl, .csv, .txt or .parquet file"
            kind = "a Hugging Face folder or a .gguf file" if key == "model.path" else texts
            hint = f"; {how_to_quote(key)}" if set(path) & UNUSUAL else ""
            raise FileNotFoundError(f"{key}={path}: path does not exist; expected {kind}{hint}")
    if job.model.path is not None:
        check_own_model(Path(job.model.path), job.data.length)
        job.model = _local(job.model.path)
    if job.data.name == "mini" and (job.model.path is not None or is_converted(job)):
        which = f"model={job.model.name}" if job.model.path is None else f"model.path={job.model.path}"
        warnings.warn(
            f"{which} is measured on the synthetic mini corpus; "
            "to use real English: data=docs; text of your own: data=text data.path=FILE",
            stacklevel=2,
        )
    return job


def check_job(job: Job) -> None:
    """Check the values of a job.

    Raises:
        ValueError: A value is not allowed; the message names it and what is allowed.
    """
    _check_names(job)
    _check_numbers(job)
    _check_evidence(job)


def _local(path: str) -> Model:
    """Return a user's own model, which its folder or GGUF file alone describes."""
    whole = real(Path(path))
    return Model(name=whole.stem if is_gguf(path) else whole.name, path=path, hub_id="")


def _literal(node: Any) -> Any:
    """Return a resolved config in which OmegaConf takes ``${`` for the text that it is."""
    if isinstance(node, dict):
        return {key: _literal(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_literal(child) for child in node]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", node) if isinstance(node, str) else node


def _check_names(job: Job) -> None:
    task = str(job.task.get("name"))
    definition = task_named(task)
    _known(f"key of task {task}", job.task, _task_keys(data_dir("conf") / "task", task))
    definition.check(job)
    if (template := job.task.get("template")) is not None:
        check_template(template)
    _one_of("route", job.route, ROUTES)
    if (job.gauge, job.matcher) not in allowed_pairs():
        pairs = "; ".join(f"{g} with {m}" for g, m in allowed_pairs())
        raise ValueError(f"gauge={job.gauge} with matcher={job.matcher} is an invalid pair; allowed: {pairs}")
    _one_of("data.name", job.data.name, DATA_NAMES)
    if job.data.name == "docs" and job.data.path is not None:
        raise ValueError(f"data.path={job.data.path} with data=docs; allowed: data=text data.path=FILE")
    if job.data.name != "mini" and job.data.richness != UNCOUNTED_DEFAULTS["richness"]:
        raise ValueError(
            f"data.richness={job.data.richness} with data={job.data.name}; allowed: 1.0, or data=mini"
        )
    _one_of("measurement.dtype", job.measurement.dtype, DTYPES)
    _one_of("measurement.massive", job.measurement.massive, TREATMENTS)
    for name, schedule in (("base", job.training.base), ("run", job.training.run)):
        _one_of(f"training.{name}.scheduler", schedule.scheduler, [s.value for s in SchedulerType])
    if job.model.package is not None:
        packaged_file(job.model.package)
    if not is_pretrained(job):
        _known(
            "key of model.architecture", job.model.architecture, _architecture_keys(job.model.architecture)
        )
        check_sites(job.measurement.sites, job.model.architecture["num_hidden_layers"])


def allowed_pairs() -> list[tuple[str, str]]:
    """Return the (gauge, matcher) pairs a job may ask for: matchers, weights in each group, two controls."""
    weights = [(group, "weights") for group in default_matchers()]
    oracles = [("signed_permutation", "oracle"), ("global_sign_permutation", "oracle")]
    return [*combinations(), *weights, *oracles, ("identity", "none")]


def _check_numbers(job: Job) -> None:
    positive: dict[str, float] = {
        "data.documents": job.data.documents,
        "measurement.batch_size": job.measurement.batch_size,
        "measurement.tokens": job.measurement.tokens,
        "measurement.spacing": job.measurement.spacing,
        "data.length": job.data.length - job.measurement.skip_first,
    }
    for run, schedule in (("base", job.training.base), ("run", job.training.run)):
        positive |= {f"training.{run}.{k}": getattr(schedule, k) for k in (*POSITIVE_COUNTS, "lr")}
    for name, value in positive.items():
        if not value > 0:
            extra = " beyond measurement.skip_first" if name == "data.length" else ""
            raise ValueError(f"{name}={value}; allowed: a positive number{extra}")
    for run, schedule in (("base", job.training.base), ("run", job.training.run)):
        if not schedule.l1 >= 0:
            raise ValueError(f"training.{run}.l1={schedule.l1}; allowed: 0 or more")
        saved = [*range(schedule.save_every, schedule.steps, schedule.save_every), schedule.steps]
        if lost := sorted(set(schedule.moments or ()) - set(saved)):
            raise ValueError(
                f"training.{run}.moments={schedule.moments}: no checkpoint is saved at {lost}; "
                f"allowed: null, or some of {saved}"
            )
    if job.measurement.skip_first < 0:
        raise ValueError(f"measurement.skip_first={job.measurement.skip_first}; allowed: 0 or more")
    if not 0 <= job.measurement.positive_share <= 1:
        raise ValueError(f"measurement.positive_share={job.measurement.positive_share}; allowed: 0 to 1")


def _check_evidence(job: Job) -> None:
    used = {
        k: getattr(job.measurement, k)
        for k in ("whiten", "dtype")
        if getattr(job.measurement, k) != UNCOUNTED_DEFAULTS[k]
    }
    if used and "evidence" not in task_of(job).stages(job):
        target = f" with task.target={job.task['target']}" if "target" in job.task else ""
        settings = ", ".join(f"measurement.{k}={v}" for k, v in used.items())
        raise ValueError(
            f"{settings}: task {job.task['name']}{target} measures no evidence between runs; "
            "allowed: recovery, confidence"
        )
    if job.measurement.massive != UNCOUNTED_DEFAULTS["massive"] and job.task["name"] in TREATS_ALL_TOKENS:
        raise ValueError(
            f"measurement.massive={job.measurement.massive} has no use with task={job.task['name']}; "
            f"allowed: {UNCOUNTED_DEFAULTS['massive']}"
        )
    share, uniform = job.measurement.positive_share, UNCOUNTED_DEFAULTS["positive_share"]
    plants_between = is_copy(job) and job.task["name"] != "adamw_resume"  # which plants a generic element
    if share != uniform and not plants_between and "evidence" not in task_of(job).stages(job):
        raise ValueError(
            f"measurement.positive_share={share}: task {job.task['name']} plants no gauge between A and B; "
            f"allowed: {uniform}"
        )


@functools.cache
def _task_keys(folder: Path, task: str) -> list[str]:
    """Return the keys of a task's file, and of the task files it inherits from (its defaults)."""
    node = OmegaConf.to_container(OmegaConf.load(folder / f"{task}.yaml"))
    assert isinstance(node, dict)
    others = [d for d in node.pop("defaults", []) if d != "_self_"]
    return [*map(str, node), *(k for other in others for k in _task_keys(folder, other))]


@functools.cache
def _known_architecture(model_type: str) -> frozenset[str]:
    return frozenset(AutoConfig.for_model(model_type).to_dict())


def _architecture_keys(architecture: dict[str, Any]) -> Iterable[str]:
    try:
        return sorted(_known_architecture(architecture["model_type"]))
    except (KeyError, ValueError) as e:
        raise ValueError(f"model.architecture.model_type={architecture.get('model_type')!r}: {e}") from e


def _known(what: str, given: Iterable[Any], allowed: Iterable[str]) -> None:
    known = list(allowed)
    unknown = [str(k) for k in given if k not in known]
    if unknown:
        shown = [k for k in known if not k.startswith("_")]
        raise ValueError(f"unknown {what} {', '.join(unknown)}; allowed: {', '.join(shown[:60])}")


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    known = sorted(allowed)
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; allowed: {', '.join(known)}")
