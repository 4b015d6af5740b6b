"""Keep trained Dyck-3 models outside of a store, and put them back into one: they take hours to train.

Of a trained model ``models/NAME.safetensors`` has the final weights, and ``models/NAME.json`` says which
stage it is, how accurate (before the end in its ``log``), and what trained it. Of one in training
``unfinished/NAME/`` is the newest checkpoint, to go on from on any machine. NAME is the cohort and the seed
(A0), and the longest string of training where that is not all the model can read (B0-48).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages import cohorts
from gaugeport.pipeline.store.store import Store, manifest, partial_of
from gaugeport.pipeline.training.trainer import STATE_FILE, checkpoints
from gaugeport.transport.optimizer_checkpoint import OPTIMIZER_FILE
from gaugeport.utils.files import write_json

KIND = "dyck"
STAGE_FILE = "stage.json"
"""Says which stage an unfinished training is of."""
NOT_KEPT = "training_args.bin"
"""The file of a checkpoint that no run continues from: a pickle, with paths of the machine."""


@dataclass(frozen=True)
class _Toy:
    """One model of some jobs: its name, a job it belongs to, and the key of its stage."""

    name: str
    job: Job
    seed: int
    key: dict[str, Any]

    def stage(self, store: Store) -> str:
        """Return the stage's folder below the store's."""
        return str(store.path(KIND, self.key).relative_to(store.root))


def _toys(jobs: Iterable[Job]) -> Iterator[_Toy]:
    """Yield the Dyck-3 models of some jobs, each once."""
    seen = set()
    for job in jobs:
        if job.model.name != "dyck3":
            continue
        for seed in {cohorts.ANCHOR, job.seed} if cohorts.frozen(job, job.seed) else {job.seed}:
            shorter = job.data.length < job.model.architecture["max_position_embeddings"]
            suffix = f"-{cohorts.longest_trained(job)}" if shorter else ""
            name = f"{job.task['cohort']}{seed}{suffix}"
            if name not in seen:
                seen.add(name)
                yield _Toy(name, job, seed, cohorts.model_key(job, seed))


def keep_toys(jobs: Iterable[Job], store: Store, folder: Path) -> list[str]:
    """Keep every model of some jobs that a store has, or has in training, and say what was kept.

    What is kept already stays as it is, but for an older checkpoint of a training, or one that has ended.

    Args:
        jobs: The jobs.
        store: The store.
        folder: Where to keep them.
    """
    lines = []
    for toy in _toys(jobs):
        unfinished = folder / "unfinished" / toy.name
        if _kept_stage(folder / "models" / f"{toy.name}.json") == toy.stage(store):
            shutil.rmtree(unfinished, ignore_errors=True)
        elif store.has(KIND, toy.key):
            kept = _keep_model(toy, store, folder / "models")
            shutil.rmtree(unfinished, ignore_errors=True)
            lines.append(f"{toy.name}: {kept['steps']} steps, least held-out accuracy {kept['least']:.5f}")
        elif (step := _keep_checkpoint(toy, store, unfinished)) is not None:
            lines.append(f"{toy.name}: unfinished, step {step} of {toy.job.training.base.steps}")
    return lines


def restore_toys(jobs: Iterable[Job], store: Store, folder: Path) -> list[str]:
    """Put the kept models of some jobs into a store that lacks them, and say what was put where.

    A model that was kept of another configuration than the jobs declare is left alone. So is a checkpoint
    where the store has the model, or a checkpoint as late.

    Args:
        jobs: The jobs.
        store: The store.
        folder: Where models are kept.
    """
    lines = []
    for toy in _toys(jobs):
        stage, finished = toy.stage(store), folder / "models" / f"{toy.name}.json"
        unfinished = folder / "unfinished" / toy.name
        for path in (finished, unfinished / STAGE_FILE):
            if _kept_stage(path) not in (None, stage):
                lines.append(f"{toy.name}: left out, {path} is of another configuration than {stage}")
        if store.has(KIND, toy.key):
            continue
        if _kept_stage(finished) == stage:
            _restore_model(toy, store, finished)
            lines.append(f"{toy.name}: {store.root / stage}")
        elif _kept_stage(unfinished / STAGE_FILE) == stage and _restore_checkpoint(toy, store, unfinished):
            lines.append(f"{toy.name}: unfinished, {partial_of(store.root / stage)}")
    return lines


def _kept_stage(about: Path) -> str | None:
    return json.loads(about.read_text())["stage"] if about.exists() else None


def _keep_model(toy: _Toy, store: Store, folder: Path) -> dict[str, Any]:
    built = store.path(KIND, toy.key)
    accuracy = cohorts.stop_rule(toy.job).accuracies(cohorts.load_toy(built))
    steps, made = cohorts.steps_trained(built), manifest(built)
    log = json.loads((checkpoints(built / "training")[steps] / STATE_FILE).read_text())["log_history"]
    about = {
        "stage": toy.stage(store),
        "steps": steps,
        "lr": toy.job.training.base.lr,
        "least": min(min(by_head.values()) for by_head in accuracy.values()),
        "heldout_accuracy": accuracy,
        "seconds": next((line["seconds"] for line in reversed(log) if "seconds" in line), made["seconds"]),
        "versions": made["versions"],  # with the machine
        "log": log,
    }
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(built / "model.safetensors", folder / f"{toy.name}.safetensors")
    write_json(folder / f"{toy.name}.json", about)
    return about


def _restore_model(toy: _Toy, store: Store, about: Path) -> None:
    kept = json.loads(about.read_text())
    model = cohorts.initialised(toy.job, toy.seed)
    model.load_state_dict(load_file(about.with_suffix(".safetensors")))

    def build(folder: Path) -> None:
        last = folder / "training" / f"checkpoint-{kept['steps']}"
        for place in (folder, last):
            model.save_pretrained(place)
        write_json(last / STATE_FILE, {"global_step": kept["steps"], "log_history": kept["log"]})

    made = {"seconds": kept["seconds"], "versions": kept["versions"]}
    store.ensure(KIND, toy.key, build, made=made)


def _newest(training: Path) -> int:
    """Return the step of the newest checkpoint that a run can continue from; 0 if there is none."""
    complete = [
        step
        for step, path in checkpoints(training).items()
        if (path / STATE_FILE).exists() and (path / OPTIMIZER_FILE).exists()
    ]
    return max(complete, default=0)


def _keep_checkpoint(toy: _Toy, store: Store, folder: Path) -> int | None:
    """Keep the newest checkpoint of a training; return its step, or None if none is newer than the kept."""
    training = partial_of(store.path(KIND, toy.key)) / "training"
    step, about = _newest(training), folder / STAGE_FILE
    if step == 0 or (
        _kept_stage(about) == toy.stage(store) and json.loads(about.read_text())["step"] >= step
    ):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoints(training)[step], folder, ignore=shutil.ignore_patterns(NOT_KEPT))
    write_json(about, {"stage": toy.stage(store), "step": step})
    return step


def _restore_checkpoint(toy: _Toy, store: Store, folder: Path) -> bool:
    """Put a checkpoint where the training of its stage looks for one, unless there is one as late."""
    step = json.loads((folder / STAGE_FILE).read_text())["step"]
    training = partial_of(store.path(KIND, toy.key)) / "training"
    if _newest(training) >= step:
        return False
    copy = training / "restored"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(STAGE_FILE))
    copy.rename(training / f"checkpoint-{step}")
    return True
