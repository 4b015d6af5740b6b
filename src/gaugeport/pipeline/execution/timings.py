"""Estimate how long stages and jobs take, from how long they took before."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from gaugeport.pipeline.execution.guesses import OF_ANY_SIZE, guess
from gaugeport.pipeline.execution.plan import Step
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.store.store import MANIFEST, digest
from gaugeport.utils.progress import clock

NOT_THE_SHAPE = ("seed", "plant_seed", "run", "setting")
"""Config keys that change a result and not the time it takes."""

REFERENCES = tuple(f"reference/{profile}/timings.json" for profile in ("toy", "real", "mini"))
"""Seconds of the kept runs, below ``experiments/``: for what was never run on this machine. Where several
have one, as of a kind of stage, the last counts."""


class Timings:
    """Recorded seconds of stages and jobs, by what decides them, and more roughly by their kind.

    Args:
        reference: Seconds by the names that :func:`shapes` gives, used where nothing was recorded here.
    """

    def __init__(self, reference: Mapping[str, list[float]]):
        self.reference = reference
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @classmethod
    def recorded(cls, outputs: Path) -> Timings:
        """Read the seconds in the manifests and records below ``outputs``, and those of the reference run."""
        kept = [data_dir("experiments") / reference for reference in REFERENCES]
        timings = cls(
            {k: v for path in kept if path.exists() for k, v in json.loads(path.read_text()).items()}
        )
        for path in (outputs / "store").glob(f"*/*/{MANIFEST}"):
            stage = _read(path)
            timings.add({"kind": stage.get("kind"), **stage.get("config", {})}, stage.get("seconds"))
        for path in (outputs / "records").glob("*.json"):
            record = _read(path)
            timings.add(record.get("config", {}), record.get("seconds"))
        return timings

    def add(self, config: Mapping[str, Any], seconds: float | None) -> None:
        """Record how many seconds a stage or job of some configuration took."""
        for shape in shapes(config) if seconds is not None else ():
            self.seconds[shape].append(seconds)  # type: ignore[arg-type]

    def of(self, config: Mapping[str, Any], parameters: int | None = None) -> float | None:
        """Return the seconds that a stage or job of some configuration takes; None if never timed.

        Args:
            config: The configuration.
            parameters: Of a pretrained model, about how many parameters it has: where it was never timed
                itself, models of other sizes are a guess.
        """
        timed = self._timed(config, parameters)
        return guess(config, parameters) if timed is None and parameters is not None else timed

    def are_guesses(self, steps: Iterable[Step]) -> bool:
        """Return whether one of the steps was never timed on its model."""
        return any(s.parameters is not None and self._timed(s.shape, s.parameters) is None for s in steps)

    def _timed(self, config: Mapping[str, Any], parameters: int | None) -> float | None:
        names = shapes(config)
        if parameters is not None and "kind" in config and config["kind"] not in OF_ANY_SIZE:
            names = names[:1]  # other models have other sizes
        for shape in names:
            for known in (self.seconds, self.reference):
                if shape in known:
                    return median(known[shape])
        return None

    def text(self, step: Step) -> str:
        """Return how long a step takes, in words."""
        seconds = self.of(step.shape, step.parameters)
        return "never timed" if seconds is None else clock(seconds)

    def total(self, steps: Iterable[Step], processes: float = 1.0) -> str:
        """Return how long some steps take, ``processes`` of them at a time, in words."""
        seconds, untimed = self.expected(steps)
        return in_words(seconds / processes, untimed)

    def expected(self, steps: Iterable[Step]) -> tuple[float, int]:
        """Return how many seconds some steps take one by one, and how many of them were never timed."""
        seconds = [self.of(step.shape, step.parameters) for step in steps]
        known = [s for s in seconds if s is not None]
        return sum(known), len(seconds) - len(known)


def seconds_taken(result: Path) -> float | None:
    """Return the seconds that a step took, from the file it left."""
    return _read(result).get("seconds")


def shapes(config: Mapping[str, Any]) -> list[str]:
    """Return names for what decides how long something takes, the most exact first."""
    if "kind" in config:
        return [digest(_shape(config)), f"stage {config['kind']}"]
    task, profile, model = (config.get(k) or {} for k in ("task", "profile", "model"))
    name = f"{profile} {task.get('name')}"
    # the config of a pretrained model names no type: it is far larger than those trained here
    trained_here = "model_type" in model.get("architecture", {"model_type": None})
    return [digest(_shape(config)), f"{name} {model.get('name')}", *([name] if trained_here else [])]


def in_words(seconds: float, untimed: int) -> str:
    """Return a time that is expected, and the number of steps it leaves out because nothing is known."""
    parts = [f"about {clock(seconds)}"] if seconds > 0 else []
    if untimed:
        parts.append(f"{untimed} never timed")
    return " and ".join(parts) or "nothing"


def _shape(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {k: _shape(v) for k, v in config.items() if k not in NOT_THE_SHAPE}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # damaged, or just being replaced: do without this timing
        return {}
