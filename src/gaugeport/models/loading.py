"""Load models and tokenizers from a local folder, a GGUF file or the hub; say what is wrong with a folder.

No remote code is run. Weights are safetensors, or ``.bin`` files that are read with ``weights_only``.
"""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import gaugeport.models.dyck  # noqa: F401  (registers dyck3 with transformers' Auto classes)
from gaugeport.models.gguf_files import is_gguf, load_gguf, load_gguf_tokenizer
from gaugeport.utils.devices import missing_features

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of weight files. ``from_pretrained`` takes the first that exists, in this order."""


def load_model(
    path_or_id: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
) -> Any:
    """Load a causal language model in evaluation mode. No parameter is ever newly initialised.

    Warns about a 16-bit dtype on a CPU that cannot compute in it at speed.

    Args:
        path_or_id: A local folder, a ``.gguf`` file (which is dequantised), or a hub id.
        dtype: A torch dtype or its name (``"float32"``, ``"bfloat16"``, ...); None for the stored one, and
            float32 for a GGUF file.
        device: The device; None for the CPU.
        attn_implementation: Passed to transformers (``"eager"``, ``"sdpa"``, ...).
        revision: A branch or commit on the hub.

    Returns:
        The transformers model.

    Raises:
        FileNotFoundError: If the folder, ``config.json``, the weights, or a shard named in the index
            is missing.
        ValueError: If a safetensors file is truncated or damaged, if the checkpoint is missing parameters
            or has them in another shape, or if the hub cannot be reached.
    """
    if is_gguf(path_or_id):
        asked = as_dtype(dtype or torch.float32)
        asked = asked if isinstance(asked, torch.dtype) else torch.float32
        model = load_gguf(Path(path_or_id).expanduser(), asked, attn_implementation)
        return _placed(model, device)
    options: dict[str, Any] = {"trust_remote_code": False, "weights_only": True, "output_loading_info": True}
    if revision is not None:
        options["revision"] = revision
    options["ignore_mismatched_sizes"] = True  # they are reported below, all at once
    if dtype is not None:
        options["dtype"] = as_dtype(dtype)
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    folder = local_folder(path_or_id)
    if folder is not None:
        check_folder(folder)
    name = str(folder if folder is not None else path_or_id)
    if folder is None:
        _from_hub(AutoConfig, name, "config.json", revision=revision)
    model, info = _from_hub(AutoModelForCausalLM, name, "the weights", **options)
    missing, mismatched = sorted(info["missing_keys"]), sorted(str(k) for k in info["mismatched_keys"])
    if missing or mismatched:
        raise ValueError(
            f"checkpoint {name} does not match {type(model).__name__}: it is missing parameters "
            f"{_some(missing)} and has another shape for {_some(mismatched)}"
        )
    if info["unexpected_keys"]:
        unused = _some(sorted(info["unexpected_keys"]))
        warnings.warn(f"checkpoint {name} has weights that the model does not use: {unused}", stacklevel=2)
    return _placed(model.eval(), device)


def load_tokenizer(path_or_id: str | Path, revision: str | None = None) -> Any:
    """Load the tokenizer of a local folder, GGUF file or hub id.

    Args:
        path_or_id: A local folder, a ``.gguf`` file, or a hub id.
        revision: A branch or commit on the hub.

    Raises:
        FileNotFoundError: If the folder or its tokenizer files are missing.
        ValueError: If the files cannot be read, or the hub cannot be reached.
    """
    if is_gguf(path_or_id):
        return load_gguf_tokenizer(Path(path_or_id).expanduser())
    folder = local_folder(path_or_id)
    if folder is not None and not any(folder.glob("*token*")) and not (folder / "vocab.json").exists():
        raise FileNotFoundError(
            f"no tokenizer in {folder}: expected tokenizer.json, or tokenizer_config.json with a vocabulary; "
            f"got {_listing(folder)}"
        )
    name = str(folder if folder is not None else path_or_id)
    return _from_hub(AutoTokenizer, name, "the tokenizer", trust_remote_code=False, revision=revision)


def hide_progress_bars() -> None:
    """Hide transformers' progress bars of loading and saving, which would bury the job counter."""
    transformers_logging.disable_progress_bar()


def as_dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    """Return the floating torch dtype of a name. A dtype and ``"auto"`` are returned as they are.

    Raises ``ValueError`` for any other value.
    """
    allowed = {
        "float64": torch.float64,
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    if dtype == "auto" or dtype in allowed.values():
        return dtype
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in allowed:
        return allowed[dtype.removeprefix("torch.")]
    raise ValueError(f"unknown dtype {dtype!r}; allowed: auto, {', '.join(allowed)}")


def local_folder(path_or_id: str | Path) -> Path | None:
    """Return the local folder of a model, or None for a hub id.

    A hub id is ``name`` or ``owner/name``, unless there is such a folder. Raises ``FileNotFoundError`` for
    a path that does not exist, and ``ValueError`` for a file.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; expected a folder with config.json and weights, or a .gguf file")
    text = str(path_or_id)
    if (
        isinstance(path_or_id, Path)
        or path.is_absolute()
        or text.startswith((".", "~"))
        or text.count("/") > 1
    ):
        raise FileNotFoundError(f"path does not exist: {path} (a hub id looks like 'owner/name')")
    return None


def check_folder(folder: Path) -> None:
    """Check that a folder has a config and complete weights, without reading the tensors.

    Raises:
        FileNotFoundError: If the config, the weights or a shard is missing.
        ValueError: If the config or the index is not JSON, or a safetensors file is damaged or lacks
            a tensor.
    """
    config = folder / "config.json"
    if not config.exists():
        raise FileNotFoundError(f"no config.json in {folder}; got {_listing(folder)}")
    _read_json(config)
    present = [f for f in WEIGHT_FILES if (folder / f).exists()]
    if not present:
        raise FileNotFoundError(
            f"no weights in {folder}: expected one of {', '.join(WEIGHT_FILES)}; got {_listing(folder)}"
        )
    # 1) weights in one file
    if not present[0].endswith(".index.json"):
        if present[0].endswith(".safetensors"):
            check_safetensors(folder / present[0])
        return
    # 2) weights in shards: the index names the shard of every tensor
    shard_of: dict[str, str] = _read_json(folder / present[0]).get("weight_map", {})
    shards = sorted(set(shard_of.values()))
    missing = [s for s in shards if not (folder / s).exists()]
    if missing or not shards:
        raise FileNotFoundError(
            f"{folder / present[0]} names {len(shards)} shard(s); these are missing: {_some(missing)}"
        )
    for shard in shards:
        if shard.endswith(".safetensors"):
            names = check_safetensors(folder / shard)
            absent = sorted(k for k, s in shard_of.items() if s == shard and k not in names)
            if absent:
                raise ValueError(
                    f"{folder / shard} is missing tensors that the index assigns to it: {_some(absent)}"
                )


def check_safetensors(path: Path) -> set[str]:
    """Return the tensor names of a safetensors file, after checking its length against its header.

    Raises ``ValueError`` for a truncated file and for a header that cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ValueError(
                f"{path} is truncated or not a safetensors file: {size} bytes in all, {length} in its header"
            )
        try:
            header = json.loads(f.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise ValueError(f"{path} is damaged: cannot read its safetensors header ({e})") from e
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(
            f"{path} is truncated or damaged: expected {expected} bytes from its header, got {size} bytes"
        )
    return {k for k in header if k != "__metadata__"}


def _placed(model: Any, device: torch.device | str | None) -> Any:
    """Return a model on a device; warn if it will be slow there."""
    if device is not None:
        model = model.to(device)
    missing = missing_features(model.dtype) if model.device.type == "cpu" else ()
    if missing:
        warnings.warn(
            f"{model.dtype} on this CPU can take over 100 times as long as float32 (it has none of "
            f"{', '.join(missing)}); to run the model, load it with dtype='float32'",
            stacklevel=3,
        )
    return model


def _from_hub(loader: Any, name: str, what: str, **options: Any) -> Any:
    """Call ``loader.from_pretrained``, with errors that say ``what`` could not be loaded."""
    try:
        return loader.from_pretrained(name, **options)
    except (OSError, HFValidationError) as e:
        if Path(name).is_dir():
            raise ValueError(f"cannot load {what} from the folder {name}: {e}") from e
        raise ValueError(
            f"cannot get {what} of {name!r} from the Hugging Face hub, and there is no such local folder. "
            f"Download it elsewhere and pass the folder (in a run: model.path=DIR). The hub's error: "
            f"{_first_line(e)}"
        ) from e
    except (ValueError, RuntimeError, KeyError) as e:
        raise ValueError(f"cannot load {what} from {name}: {e}") from e


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as e:
        raise ValueError(f"{path} is not readable JSON: {e}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _listing(folder: Path) -> str:
    return _some(sorted(p.name for p in folder.iterdir())) if any(folder.iterdir()) else "an empty folder"


def _first_line(e: Exception) -> str:
    return str(e).strip().split("\n")[0]
