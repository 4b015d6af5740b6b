"""Every task by name: the stages it stands on and what measures it; and every stage by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.models import subjects
from gaugeport.pipeline.stages import subject_saes
from gaugeport.pipeline.stages.cohorts import ANCHOR, model_key, model_stage
from gaugeport.pipeline.stages.evidence import evidence_key, evidence_stage
from gaugeport.pipeline.stages.training import (
    base_key,
    base_stage,
    data_key,
    data_stage,
    pretraining_stage,
    run_key,
    run_stage,
)
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks import (
    adamw_resume,
    audit,
    blocks,
    checkpoints,
    confidence,
    dyck,
    dyck_lenses,
    dyck_pairs,
    haar,
    head_to_head,
    independence,
    indices,
    lists,
    merge,
    recovery,
    regimes,
    sae,
    steering,
    universality,
    untrained,
)
from gaugeport.pipeline.tasks.transfer import other_job, stages_of
from gaugeport.pipeline.training.saes import sae_key, sae_stage

Row = dict[str, Any]


@dataclass(frozen=True)
class Workflow:
    """One task: ``stages`` names the stages a job of it stands on, in order; ``measure`` gives its rows."""

    stages: Callable[[Job], tuple[str, ...]]
    measure: Callable[[Job, Store], list[Row]]


def _none(job: Job) -> tuple[str, ...]:
    return ()


def _runs(job: Job) -> tuple[str, ...]:
    return ("data", "base", "A", "B")


WORKFLOWS = {
    "gauge_groups": Workflow(_none, untrained.measure_gauge_groups),
    "optimizers": Workflow(_none, untrained.measure_optimizers),
    "sign_ceiling": Workflow(
        lambda job: _runs(job) if str(job.task["activations"]).startswith("real") else (),
        untrained.measure_sign_ceiling,
    ),
    "recovery": Workflow(lambda job: (*_runs(job), "evidence"), recovery.measure),
    "merge": Workflow(merge.stages_of, merge.measure),
    "adamw_resume": Workflow(adamw_resume.stages_of, adamw_resume.measure),
    "audit": Workflow(lists.stages_of, audit.measure),
    "indices": Workflow(lists.stages_of, indices.measure),
    "sae": Workflow(sae.stages, sae.measure),
    "steering_sentiment": Workflow(stages_of, steering.measure_sentiment),
    "refusal": Workflow(stages_of, steering.measure_refusal),
    "confidence": Workflow(lambda job: (*_runs(job), "evidence"), confidence.measure),
    "head_to_head": Workflow(head_to_head.stages, head_to_head.measure),
    "bars": Workflow(dyck.own_stages, dyck.measure_bars),
    "patching": Workflow(dyck.own_stages, dyck.measure_patching),
    "cross_seed": Workflow(dyck_pairs.stages, dyck_pairs.measure_cross_seed),
    "joint_alignment": Workflow(dyck_pairs.stages, dyck_pairs.measure_joint),
    "lenses": Workflow(dyck.own_stages, dyck_lenses.measure_lenses),
    "dictionaries": Workflow(dyck.own_stages, dyck_lenses.measure_dictionaries),
    "lengths": Workflow(dyck.own_stages, dyck.measure_lengths),
    "regimes": Workflow(regimes.stages, regimes.measure),
    "universality": Workflow(universality.stages, universality.measure),
    "firing": Workflow(universality.firing_stages, universality.measure_firing),
    "haar": Workflow(haar.stages, haar.measure_haar),
    "haar_power": Workflow(_none, haar.measure_power),
    "checkpoints": Workflow(checkpoints.stages, checkpoints.measure),
    "blocks": Workflow(blocks.stages, blocks.measure),
    "independence": Workflow(independence.stages, independence.measure),
}
"""Task name -> workflow."""


@dataclass(frozen=True)
class Stage:
    """One stage: its ``kind`` in the store, what it is ``called``, what decides it (``key``), and what builds it."""

    kind: str
    called: str
    key: Callable[[Job], dict[str, Any]]
    build: Callable[[Job, Store], Path]


STAGES = {
    "data": Stage("data", "corpus", data_key, data_stage),
    "base": Stage("base", "base", base_key, base_stage),
    "other": Stage(
        "base",
        "independent base",
        lambda job: base_key(other_job(job)),
        lambda job, store: base_stage(other_job(job), store),
    ),
    "A": Stage("run", "run A", lambda job: run_key(job, "A"), lambda job, store: run_stage(job, store, "A")),
    "B": Stage("run", "run B", lambda job: run_key(job, "B"), lambda job, store: run_stage(job, store, "B")),
    "evidence": Stage("evidence", "evidence", evidence_key, evidence_stage),
    "sae": Stage("sae", "SAE", sae_key, sae_stage),
    "anchor": Stage(
        "dyck",
        "anchor",
        lambda job: model_key(job, ANCHOR),
        lambda job, store: model_stage(job, store, ANCHOR),
    ),
    "replica": Stage(
        "dyck",
        "replica",
        lambda job: model_key(job, job.seed),
        lambda job, store: model_stage(job, store, job.seed),
    ),
    "pretraining_anchor": Stage(
        "pretraining",
        "pretraining of the anchor",
        lambda job: base_key(subjects.seeded(job, "anchor")),
        lambda job, store: pretraining_stage(subjects.seeded(job, "anchor"), store),
    ),
    "pretraining": Stage("pretraining", "pretraining", base_key, pretraining_stage),
    "anchor_saes": Stage(
        "subject_saes",
        "SAEs of the anchor",
        lambda job: subject_saes.saes_key(job, "anchor"),
        lambda job, store: subject_saes.saes_stage(job, store, "anchor"),
    ),
    "other_saes": Stage(
        "subject_saes",
        "SAEs",
        lambda job: subject_saes.saes_key(job, "other"),
        lambda job, store: subject_saes.saes_stage(job, store, "other"),
    ),
    "lists_A": Stage(
        "lists",
        "lists of A",
        lambda job: lists.lists_key(job, "A"),
        lambda job, store: lists.lists_stage(job, store, "A"),
    ),
    "lists_B": Stage(
        "lists",
        "lists of B",
        lambda job: lists.lists_key(job, "B"),
        lambda job, store: lists.lists_stage(job, store, "B"),
    ),
}
"""Every stage by name."""


def stage_keys(job: Job) -> dict[str, dict[str, Any]]:
    """The stages a job stands on, in order, by what decides them; a base model of the user's own is no stage."""
    stages = WORKFLOWS[job.task["name"]].stages(job)
    return {
        stage: STAGES[stage].key(job)
        for stage in stages
        if not (stage == "base" and job.model.path is not None)
    }


def build_stage(job: Job, store: Store, stage: str) -> Path:
    """Build one of the stages of :func:`stage_keys`, or find it built."""
    return STAGES[stage].build(job, store)
