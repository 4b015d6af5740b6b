"""Read and write the folders in which peft keeps an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gaugeport.models.safetensors_files import check_safetensors
from gaugeport.transport.folders import copy_rest, listing, naming
from gaugeport.transport.lora_rules import check_settings
from gaugeport.utils.files import atomic_folder
from gaugeport.utils.tensor_files import parse_object, read_json, read_tensors

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
OLD_WEIGHTS_FILE = "adapter_model.bin"
"""What peft wrote before safetensors, and still reads if there is nothing newer."""


def read_adapter(
    source: str | Path | Mapping[str, Tensor], config: Any
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Read an adapter that can be moved.

    Args:
        source: An adapter folder, or an adapter's state dict.
        config: The config that belongs to a state dict (peft's, or a dict); unused for a folder.

    Returns:
        The tensors, the settings, and the history: what this package did to the adapter before, as its file
        records.

    Raises:
        FileNotFoundError: If the folder, its config or its weights are missing.
        ValueError: If a file is damaged, a state dict comes without a config, or the adapter cannot be moved
            (another kind than LoRA, or a refused option).
    """
    if isinstance(source, Mapping):
        if config is None:
            raise ValueError("a state dict needs its adapter's config: pass config=peft_config")
        settings = dict(config.to_dict() if hasattr(config, "to_dict") else config)
        check_settings(settings)
        return dict(source), settings, {}
    folder = Path(source)
    files = [folder / name for name in (WEIGHTS_FILE, OLD_WEIGHTS_FILE) if (folder / name).is_file()]
    for name, is_there in ((CONFIG_FILE, (folder / CONFIG_FILE).is_file()), (WEIGHTS_FILE, bool(files))):
        if not is_there:
            raise FileNotFoundError(
                f"no {name} in {folder} (found: {listing(folder)}); expected a peft adapter folder"
            )
    settings = read_json(folder / CONFIG_FILE)
    with naming(folder / CONFIG_FILE):
        check_settings(settings)
    tensors, history = _read_weights(files[0])
    return tensors, settings, history


def _read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if file.name == WEIGHTS_FILE:
        check_safetensors(file)
    tensors, metadata = read_tensors(file)
    return dict(tensors), parse_object(metadata.get("gaugeport", "{}"), f"the history in {file}")


def write_adapter(
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    out: str | Path,
    history: Mapping[str, str],
    base_name: str | None,
    source: str | Path | None = None,
    force: bool = False,
) -> None:
    """Write an adapter folder atomically.

    Args:
        tensors: The adapter's state dict.
        settings: Its config.
        out: The new folder.
        history: What this package did to the adapter, recorded in the file's metadata.
        base_name: The new ``base_model_name_or_path``.
        source: The folder the adapter was read from. Its tokenizer, notes and other files without tensors
            are copied; an optimizer state beside it is left out, with a warning.
        force: Replace what lies at ``out``.

    Raises:
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    settings = {**settings, "base_model_name_or_path": base_name}
    metadata = {"format": "pt", "gaugeport": json.dumps(history)}
    with atomic_folder(Path(out), force) as partial:
        text = json.dumps(
            settings, indent=2, sort_keys=True, default=sorted
        )  # peft keeps some options as sets
        (partial / CONFIG_FILE).write_text(text)
        save_file({k: t.contiguous() for k, t in tensors.items()}, partial / WEIGHTS_FILE, metadata=metadata)
        if source is not None:
            copy_rest(Path(source), partial, moved=(CONFIG_FILE, WEIGHTS_FILE, OLD_WEIGHTS_FILE))
