"""What a job is: the validated form of a composed config. Library code sees these dataclasses, never Hydra."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from gaugeport.groups import GROUPS
from gaugeport.routes import ROUTES
from gaugeport.store import digest

MATCHERS = ("hungarian_raw", "hungarian_abs", "procrustes", "weights", "oracle", "none")
TASKS = ("recovery", "gauge_groups", "sign_ceiling")
PROFILES = ("smoke", "mini", "paper")


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
    """Texts: ``mini`` (made here), ``text`` (a local file at ``path``) or ``hub``; packed into rows of ``length`` tokens."""

    name: str
    path: str | None = None
    field: str = "text"
    hub_id: str | None = None
    split: str = "train"
    documents: int
    seed: int = 0
    heldout: float
    length: int


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
    """What recovery is measured on: calibration ``tokens``, at ``sites``, with a gauge planted on every checkpoint."""

    tokens: int
    batch_size: int
    sites: Any = "all"
    skip_first: int = 1
    spacing: int
    models_in_memory: int


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
        """The configuration that decides the result: everything but where local files lie (their content counts)."""
        plain = asdict(self)
        for part in ("model", "data"):
            plain[part].pop("path")
        return plain

    def hash(self, contents: dict[str, str]) -> str:
        """The job's id. ``contents`` are digests of the local files it reads."""
        return digest({**self.key(), "contents": contents})


def job_from(config: DictConfig) -> Job:
    """Validate a composed config. Raises ``ValueError`` naming the bad key or value and the allowed ones."""
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        wanted: dict[str, Any] = {k: resolved[k] for k in Job.__dataclass_fields__ if k in resolved}
        wanted |= {k: resolved[k]["name"] for k in ("gauge", "matcher", "route", "profile")}
        job = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Job), wanted))
    except ConfigKeyError as e:
        raise ValueError(f"unknown config key: {e}") from e
    except OmegaConfBaseException as e:
        raise ValueError(f"bad config value: {e}") from e
    assert isinstance(job, Job)
    _one_of("gauge", job.gauge, ("identity", *GROUPS))
    _one_of("matcher", job.matcher, MATCHERS)
    _one_of("route", job.route, ROUTES)
    _one_of("task", str(job.task.get("name")), TASKS)
    _one_of("profile", job.profile, PROFILES)
    for name, value in (("data.length", job.data.length), ("measurement.tokens", job.measurement.tokens)):
        if value < 2:
            raise ValueError(f"{name} must be at least 2, found {value}")
    for path in (job.model.path, job.data.path):
        if path is not None and not Path(path).exists():
            raise FileNotFoundError(f"nothing at {path}: model.path wants a Hugging Face folder, data.path a text file")
    return job


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; allowed: {', '.join(allowed)}")
