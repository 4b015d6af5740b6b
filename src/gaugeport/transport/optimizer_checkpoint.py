"""Read checkpoint folders of ``transformers.Trainer`` with their optimizer state, and write moved ones."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gaugeport.models.folders import WEIGHT_FILES, check_folder
from gaugeport.models.loading import load_model
from gaugeport.transport.optimizer_checks import ADAPTER_ADVICE
from gaugeport.utils.files import atomic_folder

OPTIMIZER_FILE = "optimizer.pt"
SHARDED_STATE_FILES = (
    "pytorch_model_fsdp*",
    "optimizer_*",
    "optimizer.bin",
    "global_step*",
    "zero_to_fp32.py",
    "rank*-optimizer.pt",
)
"""What FSDP and DeepSpeed leave in a checkpoint instead of one ``optimizer.pt``, or beside it."""


def trainer_names(model: nn.Module) -> list[str]:
    """Return the parameter names in the order in which ``Trainer`` numbers them in its optimizer.

    Only trainable parameters are numbered: first those with weight decay, then those without (norms and
    biases), each group in the model's order. Trainer's own ``get_decay_parameter_names`` decides which is
    which.
    """
    from transformers import Trainer

    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]  # it does not use self
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return [n for n in trained if n in decayed] + [n for n in trained if n not in decayed]


def read_checkpoint(path: Path) -> tuple[Any, Any]:
    """Read the model and the optimizer state of a checkpoint folder.

    Args:
        path: A folder as Trainer writes it, such as ``checkpoint-100``.

    Returns:
        The model, on the CPU in its stored dtype, and the content of ``optimizer.pt``.

    Raises:
        FileNotFoundError: If the folder, the weights or ``optimizer.pt`` are missing.
        ValueError: If it is the checkpoint of an adapter; if FSDP or DeepSpeed wrote the state in shards; if
            the state holds more than plain tensors.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"no checkpoint folder at {path}; expected a folder as Trainer writes it (checkpoint-100)"
        )
    if (path / "adapter_config.json").exists():
        raise ValueError(f"{path} is the checkpoint of an adapter (adapter_config.json); {ADAPTER_ADVICE}")
    shards = sorted(p.name for pattern in SHARDED_STATE_FILES for p in path.glob(pattern))
    if shards:
        raise ValueError(
            f"the optimizer state in {path} is sharded or flattened ({', '.join(shards[:4])}), as FSDP or "
            f"DeepSpeed write it; gather it into one {OPTIMIZER_FILE} of whole tensors first"
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
            f"{file} cannot be read as plain tensors (damaged, or quantized or sharded objects): "
            f"{str(e).splitlines()[0]}"
        ) from e
    return load_model(path), state


def write_checkpoint(source: Path, out: Path, model: Any, state: dict[str, Any]) -> None:
    """Write a checkpoint folder atomically: a model and a state, and all other files of another checkpoint.

    ``Trainer.train(resume_from_checkpoint=out)`` continues from there: the scheduler, random states,
    ``trainer_state.json``, configs and tokenizer are those of the source.

    Args:
        source: The checkpoint folder that the other files come from.
        out: The new folder.
        model: The moved model.
        state: The moved optimizer state.

    Raises:
        FileExistsError: If something already lies at ``out``.
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
    is_shard = item.name.startswith(("model-", "pytorch_model-")) and item.suffix in (".safetensors", ".bin")
    return is_shard or item.name in WEIGHT_FILES
