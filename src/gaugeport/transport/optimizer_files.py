"""Checkpoint folders of ``transformers.Trainer``: reading one with its optimizer state, writing a moved one."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gaugeport.models.loading import WEIGHT_FILES, check_folder, load_model
from gaugeport.transport.optimizer_checks import ADAPTERS
from gaugeport.utils.files import atomic_folder

OPTIMIZER_FILE = "optimizer.pt"
SHARDED = (
    "pytorch_model_fsdp*",
    "optimizer_*",
    "optimizer.bin",
    "global_step*",
    "zero_to_fp32.py",
    "rank*-optimizer.pt",
)
"""What FSDP and DeepSpeed leave in a checkpoint instead of (or beside) one ``optimizer.pt``."""


def trainer_names(model: nn.Module) -> list[str]:
    """The parameter names in the order in which ``Trainer`` numbers them in its optimizer.

    Trainable parameters only; first those with weight decay, then those without (norms and biases), each part in the
    model's order. Which is which is Trainer's own ``get_decay_parameter_names``.
    """
    from transformers import Trainer

    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]  # it reads nothing of self
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return [n for n in trained if n in decayed] + [n for n in trained if n not in decayed]


def read_checkpoint(path: Path) -> tuple[Any, Any]:
    """The model (on the CPU, in its stored dtype) and the content of ``optimizer.pt`` of a checkpoint folder.

    Raises ``FileNotFoundError`` where the folder or one of the two is missing, and ``ValueError`` for an adapter's
    checkpoint, for a state that FSDP or DeepSpeed wrote in shards, and for one that holds more than plain tensors.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"no checkpoint folder at {path}; a folder as Trainer writes it (checkpoint-100) is wanted"
        )
    if (path / "adapter_config.json").exists():
        raise ValueError(f"{path} is the checkpoint of an adapter (adapter_config.json); {ADAPTERS}")
    shards = sorted(p.name for pattern in SHARDED for p in path.glob(pattern))
    if shards:
        raise ValueError(
            f"the optimizer state in {path} is sharded or flattened ({', '.join(shards[:4])}), as FSDP or DeepSpeed write "
            f"it; gather it into one {OPTIMIZER_FILE} of whole tensors first"
        )
    file = path / OPTIMIZER_FILE
    if not file.exists():
        raise FileNotFoundError(
            f"no {OPTIMIZER_FILE} in {path}; found {', '.join(sorted(p.name for p in path.iterdir()))}"
        )
    check_folder(path)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as e:
        raise ValueError(
            f"{file} cannot be read as plain tensors (damaged, or quantized or sharded objects): {str(e).splitlines()[0]}"
        ) from e
    return load_model(path), state


def write_checkpoint(source: Path, out: Path, model: Any, state: dict[str, Any]) -> None:
    """Write ``model`` and ``state`` with every other file of ``source`` as it is, atomically.

    ``Trainer.train(resume_from_checkpoint=out)`` goes on from there: scheduler, random states, ``trainer_state.json``,
    configs and tokenizer are the source's. Raises ``FileExistsError`` where ``out`` exists.
    """
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        for item in source.iterdir():
            if item.is_dir():
                shutil.copytree(item, folder / item.name)
            elif item.name != OPTIMIZER_FILE and not _holds_weights(item):
                shutil.copy2(item, folder / item.name)
        torch.save(state, folder / OPTIMIZER_FILE)


def _holds_weights(item: Path) -> bool:
    shard = item.name.startswith(("model-", "pytorch_model-")) and item.suffix in (".safetensors", ".bin")
    return shard or item.name in WEIGHT_FILES
