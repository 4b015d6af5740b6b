"""What a stage is: a folder in the store that jobs share, its key, its requirements and its builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.store.store import Store

WAVES = ("data", "base models", "fine-tuning runs", "SAEs", "evidence", "importance lists")
"""Stages of one wave require only stages of earlier waves or of their own, so they are built side by side.

One exception: rows require the tokenizer of a model that is fetched, so the first of them fetches it."""

Folders = Mapping[str, Path]
"""Stage name -> the folder of the built stage."""


def requires_nothing(job: Job) -> tuple[str, ...]:
    """Name no stage."""
    return ()


@dataclass(frozen=True)
class Stage:
    """One kind of stage of a job.

    Attributes:
        kind: The stage's kind in the store, a part of its path there.
        label: What it is called in progress lines.
        wave: When it is built, one of :data:`WAVES`.
        key: The configuration that decides its contents. It is hashed into the stage's path.
        requires: Names of the stages whose folders ``build`` reads.
        build: Write the stage into a folder, given the job and the folders of the required stages.
        resumable: Whether ``build`` continues from what an interrupted build left in the folder.
    """

    kind: str
    label: str
    wave: str
    key: Callable[[Job], dict[str, Any]]
    build: Callable[[Job, Folders, Path], None]
    requires: Callable[[Job], tuple[str, ...]] = requires_nothing
    resumable: bool = False


@dataclass(frozen=True)
class Built:
    """What a measurement is handed: the folders of its required stages, and a store to cache values in."""

    folders: Folders
    cache: Store

    def __getitem__(self, stage: str) -> Path:
        return self.folders[stage]
