"""What a job gets where its overrides leave it open, by whether its model is pretrained or trained here."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.labelled_prompts import CHAT_IF_ANY, MINI_VERDICT, PLAIN_TURN, VERDICT
from gaugeport.pipeline.stages.models import SELF
from gaugeport.pipeline.stages.rows import is_pretrained

TEXTS, TRAINING = "data=docs", "training=pretrained"
"""What a pretrained model is measured on, and how gently it is fine-tuned: it has much to lose."""

TEMPLATES = {"refusal": (CHAT_IF_ANY, PLAIN_TURN)}
"""Task -> its template for a pretrained model and for one trained here. Those of other tasks ask for a
verdict."""


def left_open(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the choices to add to a composed config's overrides: none for a model trained here."""
    if not any(OmegaConf.select(config, f"model.{source}") for source in ("path", "from_hub", "package")):
        return []
    return unnamed(config.data.name, overrides)


def unnamed(data: str, overrides: Sequence[str]) -> list[str]:
    """Return a pretrained model's choices that overrides do not name.

    Args:
        data: The name of the data that was composed. Other than mini or docs, a profile or table chose it.
        overrides: The overrides, as on Hydra's command line.
    """
    named = {o.partition("=")[0].lstrip("+") for o in overrides}
    choices = [] if "training" in named else [TRAINING]
    return choices if data not in ("mini", "docs") or {"data", "data.name"} & named else [TEXTS, *choices]


def complete(job: Job) -> None:
    """Set what a job's task leaves open: its target, and the template of its prompts."""
    if job.task.get("target", "") is None:
        job.task["target"] = SELF if is_pretrained(job) else "identical"
    if job.task.get("template", "") is None:
        pretrained, trained_here = TEMPLATES.get(job.task["name"], (VERDICT, MINI_VERDICT))
        job.task["template"] = pretrained if is_pretrained(job) else trained_here
