"""Open a model folder without loading it: its chart, and where each parameter lies in its files."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gaugeport.charts.chart import Chart, chart_of
from gaugeport.models.configs import causal_config, read_config
from gaugeport.models.folders import check_folder, local_folder, read_headers, read_json, some
from gaugeport.models.parameter_names import Names, does_not_match, empty_model, match_names
from gaugeport.models.safetensors_files import Header, StoredTensor
from gaugeport.models.stored_tensors import FLOATS, read_rows, read_tensor

COMPARED_ROWS = 4096


@dataclass(frozen=True)
class Checkpoint:
    """A model folder with safetensors weights, of which only headers and gains have been read.

    Attributes:
        folder: The folder.
        config: The config of its causal language model.
        chart: The chart of that model; ``folded`` is read from the gains in the files.
        headers: The header of each weight file, in order of their names.
        names: Name of a tensor in the files -> name of the parameter. A tied parameter has one name, and may
            stand in the files under one name or under both.
        old_buffers: Tensors in the files that the model no longer has, and that no gauge moves.
        other_parts: Tensors in the files that belong to other parts of a multimodal model.
    """

    folder: Path
    config: Any
    chart: Chart
    headers: tuple[Header, ...]
    names: Mapping[str, str]
    old_buffers: tuple[str, ...]
    other_parts: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, StoredTensor]:
        """Name of a parameter -> where it lies."""
        stored = {t.name: t for header in self.headers for t in header.tensors.values()}
        return {parameter: stored[name] for name, parameter in self.names.items()}

    def axes(self, tensor: StoredTensor) -> tuple[str, ...]:
        """Return the action on each axis of a tensor in the files, as :meth:`Chart.axes` does."""
        if tensor.name in self.old_buffers:
            return ("none",) * len(tensor.shape)
        return self.chart.axes(self.names[tensor.name])


def chart_of_folder(folder: str | Path) -> Chart:
    """Return the chart of the model in a folder, without loading its weights.

    The model is built on the meta device, and only the headers and the gains of the weight files are read.

    Args:
        folder: A Hugging Face folder with safetensors weights.

    Returns:
        The chart that :func:`~gaugeport.charts.chart_of` gives for the loaded model.

    Raises:
        FileNotFoundError: If the folder, its config or weights are missing.
        ValueError: As :func:`open_checkpoint`.
    """
    return open_checkpoint(folder).chart


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Open a model folder: match its tensors to the parameters of its model, and those to its chart.

    Of a multimodal checkpoint this is the language model.

    Args:
        folder: A Hugging Face folder with safetensors weights, in one file or in shards.

    Raises:
        FileNotFoundError: If the folder, its config or weights are missing.
        ValueError: If :func:`~gaugeport.models.folders.check_folder` finds a fault; if the weights are not
            safetensors; if the model has no chart; if tensors are missing, have another shape, are no
            parameters, or are merged or split by transformers on loading.
    """
    path = local_folder(folder)
    if path is None:
        raise ValueError(
            f"expected a local folder, got {str(folder)!r}; huggingface_hub.snapshot_download downloads a "
            "model of the hub, and returns its folder"
        )
    check_folder(path)
    headers = tuple(read_headers(path))
    stored = {t.name: t for header in headers for t in header.tensors.values()}
    whole = read_config(path, read_json(path / "config.json"))
    config = causal_config(str(path), whole)
    text_part = config is not whole
    model, names = _match(path, config, stored, text_part)
    if any(not _equal(*pair) for pair in _pairs(names, stored)):
        # as transformers does: two different tensors are not tied, whatever the config says
        config = copy.deepcopy(config)
        config.tie_word_embeddings = False
        model, names = _match(path, config, stored, text_part)
        if _pairs(names, stored):
            a, b = _pairs(names, stored)[0]
            raise ValueError(f"{path} has two tensors for one parameter: {a.name} and {b.name}")
    chart = chart_of(model)
    checkpoint = Checkpoint(
        folder=path,
        config=config,
        chart=chart,
        headers=headers,
        names=names.parameters,
        old_buffers=names.old_buffers,
        other_parts=names.unknown if text_part else (),
    )
    return replace(checkpoint, chart=replace(chart, folded=_gains_are_one(checkpoint)))


def _match(
    folder: Path, config: Any, stored: Mapping[str, StoredTensor], text_part: bool
) -> tuple[Any, Names]:
    """Build the empty model and match the tensors to it. Raise ``ValueError`` for what does not fit."""
    model = empty_model(str(folder), config)
    names = match_names(model, {name: t.shape for name, t in stored.items()}, text_part)
    if names.converted:
        raise ValueError(
            f"transformers merges or splits tensors of {folder} on loading, the first "
            f"{some(list(names.converted), 3)}: write the folder anew with "
            "gaugeport.load_model(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    if names.missing or names.mismatched:
        raise does_not_match(str(folder), model, names.missing, names.mismatched)
    if names.unknown and not text_part:
        raise ValueError(
            f"{folder} has tensors that {type(model).__name__} does not know, and that have no rule: "
            f"{some(list(names.unknown))}"
        )
    return model, names


def _pairs(names: Names, stored: Mapping[str, StoredTensor]) -> list[tuple[StoredTensor, StoredTensor]]:
    """Return the tensors that are one parameter under two names."""
    by_parameter: dict[str, list[StoredTensor]] = defaultdict(list)
    for name, parameter in names.parameters.items():
        by_parameter[parameter].append(stored[name])
    return [(group[0], other) for group in by_parameter.values() for other in group[1:]]


def _equal(a: StoredTensor, b: StoredTensor) -> bool:
    """Return whether two tensors of one shape hold the same values."""
    if a.dtype not in FLOATS or a.dtype != b.dtype:
        return False
    blocks = [(k, min(k + COMPARED_ROWS, a.shape[0])) for k in range(0, a.shape[0], COMPARED_ROWS)]
    return all(torch.equal(read_rows(a, *block), read_rows(b, *block)) for block in blocks)


def _gains_are_one(checkpoint: Checkpoint) -> bool:
    """Return whether every gain in the files is exactly 1 (in Gemma: every norm weight is 0)."""
    one, parameters = 1.0 - checkpoint.chart.family.gain_offset, checkpoint.parameters
    gains = (parameters[name] for name in checkpoint.chart.names("gain"))
    return all(g.dtype in FLOATS and bool((read_tensor(g) == one).all()) for g in gains)
