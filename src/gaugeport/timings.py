"""How long things took here before, and so how long what is left will take."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from gaugeport.paths import data_dir
from gaugeport.plan import Step
from gaugeport.store import MANIFEST, digest

NOT_THE_SHAPE = ("seed", "plant_seed", "run", "setting")
"""What changes a result and not the time it takes."""

REFERENCE = "reference/mini/timings.json"


class Timings:
    """Recorded seconds of stages and jobs, by what decides them; where nothing like it was recorded, by their kind."""

    def __init__(self, seconds: Mapping[str, Iterable[float]]):
        self.medians = {shape: median(found) for shape, found in seconds.items()}

    @classmethod
    def recorded(cls, outputs: Path) -> Timings:
        """What the manifests and records below ``outputs`` say; of anything else, what the reference run took."""
        found: dict[str, list[float]] = defaultdict(list)
        for path in (outputs / "store").glob(f"*/*/{MANIFEST}"):
            stage = _read(path)
            _add(found, {"kind": stage.get("kind"), **stage.get("config", {})}, stage)
        for path in (outputs / "records").glob("*.json"):
            record = _read(path)
            _add(found, record.get("config", {}), record)
        reference = data_dir("experiments") / REFERENCE
        if reference.exists():
            found = {**json.loads(reference.read_text()), **found}
        return cls(found)

    @staticmethod
    def taken(made: Path) -> float:
        """Seconds that a step took, from the file it left."""
        return _read(made).get("seconds", 0.0)

    def of(self, step: Step) -> float | None:
        """Seconds that a step will take; None where nothing of its kind was ever recorded."""
        return next((self.medians[s] for s in shapes(step.shape) if s in self.medians), None)

    def text(self, step: Step) -> str:
        """The same in words."""
        seconds = self.of(step)
        return "never timed" if seconds is None else clock(seconds)

    def total(self, steps: Iterable[Step]) -> tuple[float, int]:
        """Seconds that some steps take one after another, and how many of them were never timed."""
        found = [self.of(step) for step in steps]
        return sum(s for s in found if s is not None), sum(s is None for s in found)


def shapes(config: Mapping[str, Any]) -> list[str]:
    """Names of what decides how long something takes, the most telling first."""
    if "kind" in config:
        return [digest(_shape(config)), f"stage {config['kind']}"]
    task, profile, model = (config.get(k) or {} for k in ("task", "profile", "model"))
    name = f"{profile} {task.get('name')}"
    return [digest(_shape(config)), f"{name} {model.get('name')}", name]


def clock(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _shape(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {k: _shape(v) for k, v in config.items() if k not in NOT_THE_SHAPE}


def _add(found: dict[str, list[float]], config: dict[str, Any], timed: dict[str, Any]) -> None:
    if "seconds" in timed:
        for shape in shapes(config):
            found[shape].append(timed["seconds"])


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # damaged, or just being replaced: one timing less
        return {}
