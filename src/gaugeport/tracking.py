"""Experiment tracking: one wandb run per job, grouped by task, with the job's hash as its id."""

from __future__ import annotations

import shutil
from pathlib import Path

from gaugeport.records import Record

TRACKERS = ("none", "offline", "online")

NAMED_BY = ("model", "chart", "group", "matcher", "evidence", "site", "p", "metric")
"""The columns of a row that tell it from the job's others; together they name its wandb series."""


def track(record: Record, folder: Path, tracker: str) -> None:
    """Log a record to wandb: its config, and every row under ``evidence/site/metric`` (with its step where it has one).

    ``tracker`` is ``none``, ``offline`` (files below ``folder``/wandb, ready for ``wandb sync``) or ``online``. The run id is
    the job's hash, so a job that runs again continues its run instead of adding one.
    """
    if tracker not in TRACKERS:
        raise ValueError(f"tracker {tracker!r} is unknown; allowed: {', '.join(TRACKERS)}")
    if tracker == "none":
        return
    import wandb  # imported here: it is slow, and the library half never needs it

    for stale in (folder / "wandb").glob(f"offline-run-*-{record.id}"):
        shutil.rmtree(stale)  # an interrupted run of the same job
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project="gaugeport",
        id=record.id,
        name=f"{record.task}-{record.id}",
        group=record.task,
        config=record.config,
        dir=folder,
        mode="offline" if tracker == "offline" else "online",
        resume="allow" if tracker == "online" else None,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
    )
    by_step: dict[int, dict[str, float]] = {}
    for row in record.rows:
        name = "/".join(str(row[k]) for k in NAMED_BY if row.get(k) not in (None, ""))
        by_step.setdefault(int(row.get("step") or 0), {})[name] = row["value"]
    for step in sorted(by_step):
        run.log(by_step[step], step=step)
    run.finish()
