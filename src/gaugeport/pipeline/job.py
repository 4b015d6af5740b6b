"""What a job is, as plain dataclasses: training and measurement see these, never Hydra or OmegaConf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gaugeport.pipeline.store.store import digest, digest_files

TASK_FILES = ("reviews", "harmful", "harmless")
"""Keys of tasks that name local files: their content counts in a job's hash, their paths do not."""

UNCOUNTED_DEFAULTS = {"whiten": False, "dtype": "float32", "richness": 1.0}
"""Options that came after the first results: at these values they do not count, so that what is stored keeps its key."""


def counted(part: Mapping[str, Any], ignored: str) -> dict[str, Any]:
    """What of one part of a job's configuration decides results: all but ``ignored`` and later options not used."""
    return {
        k: v
        for k, v in part.items()
        if k != ignored and (k not in UNCOUNTED_DEFAULTS or v != UNCOUNTED_DEFAULTS[k])
    }


@dataclass(kw_only=True)
class Model:
    """Where a base model comes from: ``path`` (a local folder), else ``hub_id`` where ``from_hub``, else trained here."""

    name: str
    path: str | None = None
    from_hub: bool = False
    hub_id: str
    revision: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Data:
    """Texts: ``mini`` (made here), ``text`` (a local file at ``path``) or ``hub``; packed into rows of ``length`` tokens.

    ``richness`` is the share of its words that the mini grammar uses.
    """

    name: str
    path: str | None = None
    field: str = "text"
    hub_id: str | None = None
    split: str = "train"
    documents: int
    seed: int = 0
    heldout: float
    length: int
    richness: float = 1.0


@dataclass(kw_only=True)
class Schedule:
    """How a run is optimised (AdamW): ``steps`` of ``batch_size`` rows at peak learning rate ``lr``."""

    steps: int
    batch_size: int
    lr: float
    scheduler: str
    warmup_steps: int
    weight_decay: float
    save_every: int
    bf16: bool = False


@dataclass(kw_only=True)
class Training:
    """The base model's schedule and that of the two fine-tuning runs A and B."""

    base: Schedule
    run: Schedule


@dataclass(kw_only=True)
class Measurement:
    """What recovery is measured on: calibration ``tokens``, at ``sites``, with a gauge planted on every checkpoint.

    Models run in ``dtype``; ``whiten`` decorrelates the coordinates of each side before they are correlated.
    """

    tokens: int
    batch_size: int
    sites: Any = "all"
    skip_first: int = 1
    spacing: int
    models_in_memory: int
    whiten: bool = False
    dtype: str = "float32"


@dataclass(kw_only=True)
class Job:
    """One composed config: a model, a gauge group, a matcher, a route and a downstream task."""

    profile: str
    setting: str = "default"
    seed: int = 0
    model: Model
    data: Data
    training: Training
    measurement: Measurement
    gauge: str
    matcher: str
    route: str
    task: dict[str, Any] = field(default_factory=dict)

    def key(self) -> dict[str, Any]:
        """The configuration that decides the result: not where local files lie (their content counts), nor memory."""
        plain = asdict(self)
        for part, ignored in (("model", "path"), ("data", "path"), ("measurement", "models_in_memory")):
            plain[part] = counted(plain[part], ignored)
        plain["task"] = {k: v for k, v in plain["task"].items() if k not in TASK_FILES}
        return plain

    def files(self) -> dict[str, str]:
        """The local files and folders that the job reads, by config key."""
        named = {"model.path": self.model.path, "data.path": self.data.path}
        named |= {f"task.{k}": self.task.get(k) for k in TASK_FILES}
        return {key: path for key, path in named.items() if path is not None}

    def hash(self, contents: dict[str, str]) -> str:
        """The job's id. ``contents`` are digests of the local files it reads; what a local model is called does not count."""
        key = self.key()
        if self.model.path is not None:
            key["model"].pop("name")
        return digest({**key, "contents": contents})


def contents(job: Job) -> dict[str, str]:
    """Return digests of the local files a job reads, by config key: contents count in a key, their paths do not."""
    return {name: digest_files(path) for name, path in job.files().items()}


def job_id(job: Job) -> str:
    """Return the job's hash, with the contents of the local files it reads: its record's name and wandb run's id."""
    return job.hash(contents(job))
