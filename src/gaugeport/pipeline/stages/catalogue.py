"""Every stage by name, and the one function that builds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages import (
    base,
    cohorts,
    evidence,
    lists,
    models,
    pair_saes,
    pairs,
    replanted,
    rows,
    runs,
    saes,
    self_evidence,
)
from gaugeport.pipeline.stages.pairs import Side
from gaugeport.pipeline.stages.stage import Folders, Stage
from gaugeport.pipeline.store.store import Store

INDEPENDENT_SEED_OFFSET = 1000
"""Added to a job's seed to train the independent model of ``task.target=independent``."""


def independent_job(job: Job) -> Job:
    """Return the job of the independent model: the same in all but its seed.

    Raises:
        ValueError: The model is not trained here.
    """
    if rows.is_pretrained(job):
        raise ValueError(
            "task.target=independent requires models trained here from two seeds; "
            "allowed for a pretrained model: finetuned"
        )
    return replace(job, seed=job.seed + INDEPENDENT_SEED_OFFSET)


def _texts(job: Job) -> tuple[str, ...]:
    return ("data",)


def _data_requires(job: Job) -> tuple[str, ...]:
    return ("base",) if rows.is_converted(job) else ()


def _base_requires(job: Job) -> tuple[str, ...]:
    return () if rows.is_pretrained(job) else ("data",)


def _base(label: str, of: Callable[[Job], Job]) -> Stage:
    return Stage(
        kind="base",
        label=label,
        wave="base models",
        key=lambda job: base.base_key(of(job)),
        build=lambda job, required, folder: base.build_base(of(job), required, folder),
        requires=_base_requires,
        resumable=True,
    )


def _pretraining(label: str, side: Side) -> Stage:
    return Stage(
        kind="pretraining",
        label=label,
        wave="base models",
        key=lambda job: base.base_key(pairs.with_seed_of(job, side)),
        build=lambda job, required, folder: base.build_pretraining(
            pairs.with_seed_of(job, side), required, folder
        ),
        requires=_texts,
        resumable=True,
    )


def _run(run: str) -> Stage:
    return Stage(
        kind="run",
        label=f"run {run}",
        wave="fine-tuning runs",
        key=lambda job: runs.run_key(job, run),
        build=lambda job, required, folder: runs.build_run(job, required, folder, run),
        requires=lambda job: ("data", "base"),
        resumable=True,
    )


def _toy(label: str, wave: str, seed: Callable[[Job], int]) -> Stage:
    return Stage(
        kind="dyck",
        label=label,
        wave=wave,
        key=lambda job: cohorts.model_key(job, seed(job)),
        build=lambda job, required, folder: cohorts.build_model(job, required, folder, seed(job)),
        requires=lambda job: ("anchor",) if cohorts.frozen(job, seed(job)) else (),
        resumable=True,
    )


def _pair_saes(label: str, side: Side) -> Stage:
    return Stage(
        kind="subject_saes",
        label=label,
        wave="SAEs",
        key=lambda job: pair_saes.saes_key(job, side),
        build=lambda job, required, folder: pair_saes.build_saes(job, required, folder, side),
        requires=lambda job: pairs.side_stages(job, side),
    )


def _lists(run: str) -> Stage:
    return Stage(
        kind="lists",
        label=f"lists of {run}",
        wave="importance lists",
        key=lambda job: lists.lists_key(job, run),
        build=lambda job, required, folder: lists.build_lists(job, required, folder, run),
        requires=lambda job: ("data", models.model_stage(job, run)),
    )


EVIDENCE = Stage(
    "evidence",
    "evidence",
    "evidence",
    evidence.evidence_key,
    evidence.build_evidence,
    lambda job: ("data", "base", "A", "B"),
)
SELF_EVIDENCE = Stage(
    "self_evidence",
    "evidence of the model with itself",
    "evidence",
    self_evidence.evidence_key,
    self_evidence.build_evidence,
    lambda job: ("data", "base"),
)


def _uniform(stage: Stage) -> Stage:
    """Return an evidence stage under uniform plants, whatever the job's."""
    return replace(stage, key=lambda job: stage.key(replanted.uniform(job)))


def _planted(stage: Stage, source: str) -> Stage:
    """Return an evidence stage under the job's plants: where they are not uniform, ``source`` under them."""

    def build(job: Job, required: Folders, folder: Path) -> None:
        if replanted.is_uniform(job):
            stage.build(job, required, folder)
        else:
            replanted.build_replanted(job, required[source], folder)

    def requires(job: Job) -> tuple[str, ...]:
        return stage.requires(job) if replanted.is_uniform(job) else (source,)

    return replace(stage, build=build, requires=requires)


STAGES = {
    "data": Stage("data", "corpus", "data", rows.data_key, rows.build_data, _data_requires),
    "anchor": _toy("anchor", "base models", lambda job: cohorts.ANCHOR),
    "base": _base("base", lambda job: job),
    "other": _base("independent base", independent_job),
    "pretraining_anchor": _pretraining("pretraining of the anchor", "anchor"),
    "pretraining": _pretraining("pretraining", "other"),
    "compared": _toy("anchor of the pair", "fine-tuning runs", pairs.anchor_of),
    "replica": _toy("replica", "fine-tuning runs", lambda job: job.seed),
    "A": _run("A"),
    "B": _run("B"),
    "sae": Stage(
        "sae",
        "SAE",
        "SAEs",
        saes.sae_key,
        saes.build_sae,
        lambda job: ("data", models.model_stage(job)),
    ),
    "anchor_saes": _pair_saes("SAEs of the anchor", "anchor"),
    "other_saes": _pair_saes("SAEs", "other"),
    "uniform_evidence": _uniform(EVIDENCE),
    "evidence": _planted(EVIDENCE, "uniform_evidence"),
    "uniform_self_evidence": _uniform(SELF_EVIDENCE),
    "self_evidence": _planted(SELF_EVIDENCE, "uniform_self_evidence"),
    "lists_A": _lists("A"),
    "lists_B": _lists("B"),
}
"""Every stage by name, wave by wave, the longest first within a wave so that no core idles at its end."""


def own_folder(job: Job, name: str) -> Path | None:
    """Return the folder of a stage that the user provides (the base model of ``model.path``), or None."""
    if name != "base" or job.model.path is None or rows.is_converted(job):
        return None
    return Path(job.model.path)


def keys_of(job: Job, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what decides each of a job's stages, by name; what the user provides is no stage."""
    return {name: STAGES[name].key(job) for name in names if own_folder(job, name) is None}


def build_stage(job: Job, store: Store, name: str) -> Path:
    """Build one stage of a job, and before it what it requires, or find it built.

    Returns:
        The stage's folder.

    Raises:
        Exception: Whatever the stage's ``build`` raises; nothing is left under the stage's name then.
    """
    provided = own_folder(job, name)
    if provided is not None:
        return provided
    stage = STAGES[name]
    key = stage.key(job)
    if store.has(stage.kind, key):
        return store.path(stage.kind, key)
    required = build_stages(job, store, stage.requires(job))
    return store.ensure(stage.kind, key, lambda folder: stage.build(job, required, folder), stage.resumable)


def build_stages(job: Job, store: Store, names: Iterable[str]) -> Folders:
    """Build stages of a job in order, each once; returns their folders by name."""
    return {name: build_stage(job, store, name) for name in names}
