"""Hold an SAE as it lies in a folder, and write it with other tensors in the same format."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gaugeport.transport.folders import copy_rest
from gaugeport.transport.sae_description import SAEDescription
from gaugeport.utils.files import atomic_folder


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredSAE:
    """An SAE as it lies in a folder.

    Attributes:
        folder: The folder.
        weights_file: The name of the file of its tensors.
        config_file: The name of its config.
        weights: The tensors by name, in the order (and the class of mapping) of the file.
        metadata: The metadata of a safetensors file.
        config: Its config.
        description: What is in stream coordinates.
        invariant_files: Names of other files of tensors that are the same in all coordinates.
    """

    folder: Path
    weights_file: str
    config_file: str
    weights: dict[str, Tensor]
    metadata: dict[str, str]
    config: dict[str, Any]
    description: SAEDescription
    invariant_files: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by names without the prefix that ``torch.compile`` leaves."""
        return {name.removeprefix("_orig_mod."): t for name, t in self.weights.items()}

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], out: Path, force: bool) -> None:
        """Write a folder like this one, atomically, with other tensors and another config.

        Args:
            tensors: The tensors, by the names in :attr:`tensors`.
            config: The config.
            out: The new folder.
            force: Replace what lies at ``out``.

        Raises:
            FileExistsError: If something already lies at ``out``, unless ``force``.
        """
        weights = copy.copy(self.weights)
        for name, was in self.weights.items():
            moved = tensors[name.removeprefix("_orig_mod.")]
            is_parameter = isinstance(was, nn.Parameter)
            weights[name] = nn.Parameter(moved, was.requires_grad) if is_parameter else moved
        with atomic_folder(out, force) as folder:
            if self.weights_file.endswith(".safetensors"):
                save_file(weights, folder / self.weights_file, metadata=self.metadata or None)
            else:
                torch.save(weights, folder / self.weights_file)
            (folder / self.config_file).write_text(json.dumps(config, indent=2))
            copy_rest(self.folder, folder, (self.weights_file, self.config_file), self.invariant_files)


def with_record(config: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose list ``gaugeport`` has one more record."""
    stored = config.get("gaugeport")
    return {**config, "gaugeport": [*(stored if isinstance(stored, list) else []), record]}


def whole_number(config: Mapping[str, Any], key: str) -> int:
    """Return a positive integer of a config. Raises ``ValueError`` for anything else."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"the config's {key}: expected a positive integer, got {value!r}")
    return value


def rows_of(tensors: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    """Return the length of an axis of a matrix, or 0 if there is no such matrix."""
    t = tensors.get(name)
    return t.shape[axis] if t is not None and t.dim() == 2 else 0


def top_k(pre: Tensor, k: int) -> Tensor:
    """Return activations [..., n] of which all but the k largest are 0."""
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter_(-1, indices, values)
