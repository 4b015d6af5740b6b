"""Read and write the folders in which peft keeps an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gaugeport.models.safetensors_files import check_safetensors
from gaugeport.transport.lora_rules import check_settings
from gaugeport.utils.files import atomic_folder

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


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
        FileNotFoundError: If the folder or one of its two files is missing.
        ValueError: If a file is damaged, a state dict comes without a config, or the adapter cannot be moved
            (another kind than LoRA, or a refused option).
    """
    history: dict[str, str] = {}
    if isinstance(source, Mapping):
        if config is None:
            raise ValueError("a state dict needs its adapter's config: pass config=peft_config")
        tensors, settings = dict(source), dict(config.to_dict() if hasattr(config, "to_dict") else config)
    else:
        folder = Path(source)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"no {name} in {folder} (found: {_listing(folder)}); expected a peft adapter folder"
                )
        check_safetensors(folder / WEIGHTS_FILE)
        try:
            settings = json.loads((folder / CONFIG_FILE).read_text())
        except ValueError as e:
            raise ValueError(f"{folder / CONFIG_FILE} is not readable JSON: {e}") from e
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            history = json.loads((file.metadata() or {}).get("gaugeport", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    check_settings(settings)
    return tensors, settings, history


def write_adapter(
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    out: str | Path,
    history: Mapping[str, str],
    base_name: str | None,
) -> None:
    """Write an adapter folder atomically.

    Args:
        tensors: The adapter's state dict.
        settings: Its config.
        out: The new folder.
        history: What this package did to the adapter, recorded in the file's metadata.
        base_name: The new ``base_model_name_or_path``.

    Raises:
        FileExistsError: If something already lies at ``out``.
    """
    settings = {**settings, "base_model_name_or_path": base_name}
    metadata = {"format": "pt", "gaugeport": json.dumps(history)}
    with atomic_folder(Path(out)) as partial:
        text = json.dumps(
            settings, indent=2, sort_keys=True, default=sorted
        )  # peft keeps some options as sets
        (partial / CONFIG_FILE).write_text(text)
        save_file({k: t.contiguous() for k, t in tensors.items()}, partial / WEIGHTS_FILE, metadata=metadata)


def _listing(folder: Path) -> str:
    return ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
