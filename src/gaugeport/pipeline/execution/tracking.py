"""Experiment tracking with wandb: one run per job and per table, grouped by experiment.

Offline runs wait for ``wandb sync``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gaugeport.pipeline.store.records import Record
from gaugeport.pipeline.store.store import digest, digest_files

TRACKERS = ("none", "offline", "online")

NOT_IN_SERIES_NAME = ("value", "step", "theory", "yardstick")
"""Entries of a row that say what was measured and when.

The others identify the row and name its wandb series.
"""


def track_job(
    record: Record,
    group: str,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    folder: Path,
    tracker: str,
) -> None:
    """Log a record as one wandb run: its config, its rows, and the training curves of its stages.

    Each row is logged under a name that identifies it (``site/block2/signed_accuracy``) against ``step``;
    curves as ``train/<stage>/loss`` against ``train/step``. The run's id is the job's hash, so a job that
    runs again continues its run instead of adding one.

    Args:
        record: The record.
        group: The name of the experiment.
        curves: Stage -> the Trainer's log.
        folder: Offline runs are written below ``folder/wandb``.
        tracker: ``none``, ``offline`` or ``online``.

    Raises:
        ValueError: The tracker is unknown.
    """
    with _run(record.id, f"{record.task}-{record.id}", group, "job", record.config, folder, tracker) as run:
        if run is None:
            return
        run.define_metric("train/*", step_metric="train/step")
        run.define_metric("*", step_metric="step")
        for stage, log in curves.items():
            for line in log:
                named = {f"train/{stage}/{k}": v for k, v in line.items() if k not in ("step", "epoch")}
                run.log({"train/step": line["step"], **named})
        by_step: dict[int, dict[str, float]] = {}
        for row in record.rows:
            parts = {k: v for k, v in row.items() if k not in NOT_IN_SERIES_NAME and v not in (None, "")}
            name = "/".join(str(parts[k]) for k in sorted(parts, key=lambda k: (k == "metric", k)))
            by_step.setdefault(int(row.get("step") or 0), {})[name] = row["value"]
        for step in sorted(by_step):
            run.log({"step": step, **by_step[step]})


def track_table(name: str, files: Sequence[Path], folder: Path, tracker: str) -> None:
    """Log a table's files and figure as one artifact of its experiment.

    The run's id is a hash of the files' contents, so unchanged files are not logged twice.
    """
    run_id = f"table-{name}-{digest([digest_files(f) for f in files])}"
    logged = folder / "wandb" / "tables" / run_id
    if logged.exists():
        return
    with _run(run_id, f"table {name}", name, "table", {}, folder, tracker) as run:
        if run is None:
            return
        import wandb

        artifact = wandb.Artifact(name, type="table")
        for file in files:
            artifact.add_file(str(file))
        run.log_artifact(artifact)
    logged.parent.mkdir(parents=True, exist_ok=True)
    logged.touch()  # only after the run has ended: an interrupted one is logged again


@contextmanager
def _run(
    run_id: str, name: str, group: str, job_type: str, config: dict[str, Any], folder: Path, tracker: str
) -> Iterator[Any]:
    if tracker not in TRACKERS:
        raise ValueError(f"tracker {tracker!r} is unknown; allowed: {', '.join(TRACKERS)}")
    if tracker == "none":
        yield None
        return
    import wandb  # imported here because it is slow

    for stale in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
        shutil.rmtree(stale)  # an interrupted run of the same id
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(
        "WANDB_DATA_DIR", str((folder / "wandb").resolve())
    )  # artifacts wait where their runs do
    run = wandb.init(
        project="gaugeport",
        id=run_id,
        name=name,
        group=group,
        job_type=job_type,
        config=config,
        dir=folder,
        mode="offline" if tracker == "offline" else "online",
        resume="allow" if tracker == "online" else None,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
    )
    try:
        yield run
    finally:
        run.finish()
