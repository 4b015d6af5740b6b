"""Read checkpoint folders of ``transformers.Trainer`` with their optimizer state, and write moved ones."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gaugeport.models.checkpoint import Checkpoint, open_checkpoint
from gaugeport.models.folders import WEIGHT_FILES, check_folder, weight_files
from gaugeport.models.loading import load_model
from gaugeport.models.parameter_names import empty_model
from gaugeport.models.stored_tensors import FLOATS
from gaugeport.transport.folders import leads_out, listing
from gaugeport.transport.optimizer_checks import ADAPTER_ADVICE
from gaugeport.utils.files import atomic_folder
from gaugeport.utils.tensor_files import read_torch

OPTIMIZER_FILE = "optimizer.pt"
ACCELERATE_FILE = "optimizer.bin"
"""What ``Accelerator.save_state`` writes instead (``optimizer_accelerate.py``)."""

SHARDED_STATE_FILES = (
    "pytorch_model_fsdp*",
    "optimizer_*",
    "global_step*",
    "zero_to_fp32.py",
    "rank*-optimizer.pt",
)
"""What FSDP and DeepSpeed leave in a checkpoint instead of one file of the state, or beside it."""


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


def state_file_of(path: Path) -> str:
    """Return the name of the file of the optimizer's state in a checkpoint folder.

    Args:
        path: A folder as Trainer or ``Accelerator.save_state`` writes it.

    Returns:
        ``optimizer.pt`` or ``optimizer.bin``.

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no optimizer state.
        ValueError: If it is the checkpoint of an adapter, or holds both files, several optimizers, or shards
            of FSDP or DeepSpeed.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"no checkpoint folder at {path}; expected a folder as Trainer writes it (checkpoint-100), or "
            "Accelerator.save_state"
        )
    if (path / "adapter_config.json").exists():
        raise ValueError(f"{path} is the checkpoint of an adapter (adapter_config.json); {ADAPTER_ADVICE}")
    several = sorted(p.name for p in path.glob("optimizer_[0-9].bin"))
    if several and (path / ACCELERATE_FILE).exists():
        raise ValueError(
            f"{path} holds several optimizers ({ACCELERATE_FILE}, {', '.join(several)}); move their state "
            "dicts one by one, with names= and the model, and the model with transport_model"
        )
    shards = sorted(p.name for pattern in SHARDED_STATE_FILES for p in path.glob(pattern))
    if shards:
        raise ValueError(
            f"the optimizer state in {path} is sharded or flattened ({', '.join(shards[:4])}), as FSDP or "
            f"DeepSpeed write it; gather it into one {OPTIMIZER_FILE} of whole tensors first"
        )
    found = [f for f in (OPTIMIZER_FILE, ACCELERATE_FILE) if (path / f).is_file()]
    if len(found) == 2:
        raise ValueError(f"{path} holds both {' and '.join(found)}; remove the one that is not the run's")
    if not found:
        raise FileNotFoundError(
            f"no {OPTIMIZER_FILE} in {path}, nor accelerate's {ACCELERATE_FILE}; found {listing(path)}"
        )
    return found[0]


def read_checkpoint(path: Path) -> tuple[Any, Any]:
    """Read the model and the optimizer state of a checkpoint folder of Trainer.

    Args:
        path: A folder as Trainer writes it, such as ``checkpoint-100``.

    Returns:
        The model, on the CPU in its stored dtype, and the content of ``optimizer.pt``.

    Raises:
        FileNotFoundError: If the folder, the weights or ``optimizer.pt`` are missing.
        ValueError: If it is the checkpoint of an adapter; if FSDP or DeepSpeed wrote the state in shards; if
            the state holds more than plain tensors.
    """
    file = path / state_file_of(path)
    check_folder(path)
    return load_model(path), read_torch(file)


def open_training_checkpoint(path: Path) -> tuple[Any, Any, Checkpoint | None]:
    """Open a checkpoint folder of Trainer without loading weights that can be moved from file to file.

    Args:
        path: A folder as Trainer writes it.

    Returns:
        The model, the content of ``optimizer.pt``, and the model folder. Where the weights are safetensors,
        the model is on the meta device, in the dtypes of the files; else it is loaded, and the last is None.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_checkpoint`.
    """
    file = path / state_file_of(path)
    check_folder(path)
    if any(f.suffix != ".safetensors" for f in weight_files(path)):
        return load_model(path), read_torch(file), None
    checkpoint = open_checkpoint(path)
    model = empty_model(str(path), checkpoint.config).eval()
    for name, tensor in checkpoint.parameters.items():
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.to(FLOATS.get(tensor.dtype, parameter.dtype))
    return model, read_torch(file), checkpoint


def write_checkpoint(source: Path, out: Path, model: Any, state: dict[str, Any], force: bool = False) -> None:
    """Write a checkpoint folder atomically: a model and a state, and all other files of another checkpoint.

    ``Trainer.train(resume_from_checkpoint=out)`` continues from there: the scheduler, random states,
    ``trainer_state.json``, configs and tokenizer are those of the source.

    Args:
        source: The checkpoint folder that the other files come from.
        out: The new folder.
        model: The moved model.
        state: The moved optimizer state.
        force: Replace what lies at ``out``.

    Raises:
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    write_folder(source, out, model.save_pretrained, state, OPTIMIZER_FILE, force)


def write_folder(
    source: Path,
    out: Path,
    write_weights: Callable[[Path], object],
    state: dict[str, Any],
    state_file: str,
    force: bool,
) -> None:
    """Write weights and an optimizer state into a new folder, beside copies of all other files of another.

    Links that lead out of the other folder are left out, with a warning.

    Args:
        source: The other folder.
        out: The new folder.
        write_weights: Writes the weights into a folder.
        state: The optimizer's state.
        state_file: The name of its file.
        force: Replace what lies at ``out``.

    Raises:
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    left_out = []
    with atomic_folder(out, force) as folder:
        write_weights(folder)
        for item in sorted(source.iterdir()):
            if item.name == state_file or _holds_weights(item):
                continue
            if leads_out(item, source):
                left_out.append(item.name)
            elif item.is_dir():
                shutil.copytree(item, folder / item.name, symlinks=True)
            else:
                shutil.copy2(item, folder / item.name)
        torch.save(state, folder / state_file)
    if left_out:
        warnings.warn(f"left out of {out}: {', '.join(left_out)} (links out of the folder)", stacklevel=4)


def _holds_weights(item: Path) -> bool:
    is_shard = item.name.startswith(("model-", "pytorch_model-")) and item.suffix in (".safetensors", ".bin")
    return is_shard or item.name in WEIGHT_FILES
