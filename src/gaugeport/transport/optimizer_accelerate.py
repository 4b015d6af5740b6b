"""Read the folders of accelerate's ``Accelerator.save_state``, and write moved ones.

Such a folder holds ``optimizer.bin`` beside the weights, without a config. The weights are stored under the
names of the prepared model, with the prefixes of its wrappers; they are moved file by file, so that names,
dtypes and metadata stay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gaugeport.charts.chart import Chart
from gaugeport.groups import LinearGauge
from gaugeport.models.loading import load_model
from gaugeport.transport.axis import InPlace
from gaugeport.transport.folders import listing, naming
from gaugeport.transport.optimizer_checkpoint import ACCELERATE_FILE, write_folder
from gaugeport.transport.optimizer_names import first_names, shorten, without_wrappers
from gaugeport.utils.progress import Progress
from gaugeport.utils.tensor_files import read_tensors, read_torch

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, eq=False, kw_only=True)
class AcceleratorState:
    """The folder of an ``Accelerator.save_state``.

    Attributes:
        folder: The folder.
        model: The model, with the folder's weights.
        state: The optimizer's state.
        weights: The tensors of the weights, by their names in the file.
        weights_file: The name of that file.
        metadata: Its metadata, if it is a safetensors file.
    """

    folder: Path
    model: Any
    state: Any
    weights: Mapping[str, Tensor]
    weights_file: str
    metadata: dict[str, str]

    def write(
        self,
        out: Path,
        chart: Chart,
        g: LinearGauge,
        state: dict[str, Any],
        force: bool,
        progress: Progress | None,
    ) -> None:
        """Write a folder like this one with moved weights and state, from which ``load_state`` continues.

        Args:
            out: The new folder, written atomically.
            chart: The chart of the model.
            g: The gauge that moves the weights.
            state: The moved optimizer state.
            force: Replace what lies at ``out``.
            progress: Told the bytes of weights that are moved.

        Raises:
            FileExistsError: If something already lies at ``out``, unless ``force``.
        """
        first, moved, done = first_names(self.model), {}, 0
        total = sum(t.nbytes for t in self.weights.values())
        with torch.no_grad(), InPlace(g) as act:
            for name, t in self.weights.items():
                clean = without_wrappers(name)
                moved[name] = t.detach().clone()
                act.by_kinds(moved[name], chart.axes(first.get(clean, clean)))
                done += t.nbytes
                if progress is not None:
                    progress(done, total, "weights")

        def write_weights(folder: Path) -> None:
            if self.weights_file.endswith(".safetensors"):
                save_file(moved, folder / self.weights_file, metadata=self.metadata or None)
            else:
                torch.save(moved, folder / self.weights_file)

        write_folder(self.folder, out, write_weights, state, ACCELERATE_FILE, force)


def read_accelerator_state(path: Path, given: nn.Module | None) -> AcceleratorState:
    """Read the folder of an ``Accelerator.save_state`` of one model and one optimizer.

    Args:
        path: The folder.
        given: A model of the architecture that was trained. It is not changed; None if the folder holds a
            ``config.json`` too.

    Returns:
        The weights, the state, and the model with these weights, on the CPU and in the stored dtypes.

    Raises:
        FileNotFoundError: If the weights or the state are missing.
        ValueError: If no model is given; if a file is damaged or holds more than plain tensors; if the
            weights do not fit the model.
    """
    if given is None and not (path / "config.json").is_file():
        raise ValueError(
            f"{path} holds no config.json, as Accelerator.save_state leaves it: pass model=, a model of the "
            "architecture that was trained"
        )
    files = [f for f in WEIGHTS_FILES if (path / f).is_file()]
    if not files:
        raise FileNotFoundError(
            f"no weights in {path}: expected {' or '.join(WEIGHTS_FILES)} beside {ACCELERATE_FILE}; found "
            f"{listing(path)}"
        )
    file = path / files[0]
    weights, metadata = read_tensors(file)
    model = copy.deepcopy(given) if given is not None else load_model(path)
    with naming(file):
        _fill(model, weights)
    state = read_torch(path / ACCELERATE_FILE)
    return AcceleratorState(
        folder=path, model=model, state=state, weights=weights, weights_file=file.name, metadata=metadata
    )


def _fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model the weights in a file. Raises ``ValueError`` if names, shapes or dtypes do not fit."""
    first = first_names(model)
    targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    problems, filled = [], set()
    for name, t in weights.items():
        clean = without_wrappers(name)
        target = targets.get(first.get(clean, clean))
        if target is None:
            problems.append(f"{name} is not in the model")
        elif target.shape != t.shape or not t.is_floating_point():
            problems.append(f"{name} is {t.dtype} of shape {tuple(t.shape)}, expected {tuple(target.shape)}")
        else:
            target.data = t.detach().clone()
            filled.add(first.get(clean, clean))
    problems += [f"{name} is missing" for name, _ in model.named_parameters() if name not in filled]
    if problems:
        raise ValueError(f"the weights do not fit the {type(model).__name__}: {shorten(problems)}")
