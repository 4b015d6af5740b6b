"""Loading models and tokenizers from a local folder or the hub, with errors that say what is wrong with the folder.

Never ``trust_remote_code``; weights are safetensors, or ``.bin`` files read with ``weights_only``.
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

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def load_model(
    path_or_id: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
) -> Any:
    """A causal language model in evaluation mode, from a local folder or a hub id.

    ``dtype`` is a torch dtype or its name (``"float32"``, ``"bfloat16"``, …), None for the one stored; ``device`` None
    for the CPU; ``attn_implementation`` is passed on (``"eager"``, ``"sdpa"``, …); ``revision`` is a hub branch or commit.

    Raises ``ValueError`` or ``FileNotFoundError`` that name what was found: a missing folder, a folder without
    ``config.json`` or weights, a shard that the index names but the folder lacks, a truncated or damaged safetensors
    file, parameters the checkpoint does not hold or holds in another shape (nothing is ever initialised afresh), and
    a hub that cannot be reached.
    """
    options: dict[str, Any] = {"trust_remote_code": False, "weights_only": True, "output_loading_info": True}
    if revision is not None:
        options["revision"] = revision
    options["ignore_mismatched_sizes"] = True  # to be named below, and refused
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
            f"the checkpoint {name} does not fill its model {type(model).__name__}: "
            f"missing parameters {_some(missing)}; of another shape {_some(mismatched)}"
        )
    if info["unexpected_keys"]:
        warnings.warn(f"{name} holds weights its model has no use for: {_some(sorted(info['unexpected_keys']))}",
                      stacklevel=2)  # fmt: skip
    return model.eval().to(device) if device is not None else model.eval()


def load_tokenizer(path_or_id: str | Path, revision: str | None = None) -> Any:
    """The tokenizer of a local folder or hub id (at a ``revision``).

    Raises ``FileNotFoundError`` for a missing folder or one without tokenizer files, ``ValueError`` for unreadable
    ones and for a hub that cannot be reached.
    """
    folder = local_folder(path_or_id)
    if folder is not None and not any(folder.glob("*token*")) and not (folder / "vocab.json").exists():
        raise FileNotFoundError(
            f"no tokenizer in {folder}: wanted tokenizer.json (or a tokenizer_config.json with its vocabulary); "
            f"found {_listing(folder)}"
        )
    name = str(folder if folder is not None else path_or_id)
    return _from_hub(AutoTokenizer, name, "the tokenizer", trust_remote_code=False, revision=revision)


def hide_progress_bars() -> None:
    """No bars for loading and saving models: in a pipeline of small ones they drown the bar that counts jobs."""
    transformers_logging.disable_progress_bar()


def as_dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    """A floating torch dtype from itself or its name; ``"auto"`` passes. Raises ``ValueError`` naming the allowed."""
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
    """The folder a model is in, or None for a hub id (``name`` or ``owner/name`` that is no existing folder).

    Raises ``FileNotFoundError`` for what can only be a path and does not exist, ``ValueError`` for a file.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; a model is a folder holding config.json and its weights")
    text = str(path_or_id)
    if (
        isinstance(path_or_id, Path)
        or path.is_absolute()
        or text.startswith((".", "~"))
        or text.count("/") > 1
    ):
        raise FileNotFoundError(f"no model folder at {path} (a hub id looks like 'owner/name')")
    return None


def check_folder(folder: Path) -> None:
    """Raise ``FileNotFoundError`` or ``ValueError`` unless ``folder`` holds a config and complete weights.

    Safetensors files are checked by header and length, without reading the tensors.
    """
    config = folder / "config.json"
    if not config.exists():
        raise FileNotFoundError(f"no config.json in {folder}; found {_listing(folder)}")
    _read_json(config)
    present = [f for f in WEIGHT_FILES if (folder / f).exists()]
    if not present:
        raise FileNotFoundError(f"no weights in {folder}: wanted one of {', '.join(WEIGHT_FILES)}; "
                                f"found {_listing(folder)}")  # fmt: skip
    # from_pretrained takes the first that exists, in this order
    if not present[0].endswith(".index.json"):
        if present[0].endswith(".safetensors"):
            check_safetensors(folder / present[0])
        return
    shards: dict[str, str] = _read_json(folder / present[0]).get("weight_map", {})
    wanted = sorted(set(shards.values()))
    missing = [s for s in wanted if not (folder / s).exists()]
    if missing or not wanted:
        raise FileNotFoundError(
            f"{folder / present[0]} names {len(wanted)} shard(s), of which these are missing: {_some(missing)}"
        )
    for shard in wanted:
        if shard.endswith(".safetensors"):
            held = check_safetensors(folder / shard)
            lacking = sorted(k for k, s in shards.items() if s == shard and k not in held)
            if lacking:
                raise ValueError(
                    f"{folder / shard} lacks tensors that the index places in it: {_some(lacking)}"
                )


def check_safetensors(path: Path) -> set[str]:
    """The tensor names of a safetensors file whose length agrees with its header.

    Raises ``ValueError`` with both lengths for a truncated file and one whose header cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ValueError(
                f"{path} is truncated or no safetensors file: {size} bytes, header of {length} announced"
            )
        try:
            header = json.loads(f.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise ValueError(f"{path} is damaged: its safetensors header cannot be read ({e})") from e
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"{path} is truncated or damaged: {size} bytes, its header announces {expected}")
    return {k for k in header if k != "__metadata__"}


def _from_hub(loader: Any, name: str, wanted: str, **options: Any) -> Any:
    """``loader.from_pretrained`` with errors in terms of what was wanted."""
    try:
        return loader.from_pretrained(name, **options)
    except (OSError, HFValidationError) as e:
        if Path(name).is_dir():
            raise ValueError(f"cannot load {wanted} from the folder {name}: {e}") from e
        raise ValueError(
            f"cannot get {wanted} of {name!r} from the Hugging Face hub (it is no local folder either). Download it "
            f"elsewhere and pass the folder (in a run: model.path=DIR). The hub said: {_first_line(e)}"
        ) from e
    except (ValueError, RuntimeError, KeyError) as e:
        raise ValueError(f"cannot load {wanted} from {name}: {e}") from e


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as e:
        raise ValueError(f"{path} is no readable JSON: {e}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, wanted an object")
    return content


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _listing(folder: Path) -> str:
    return _some(sorted(p.name for p in folder.iterdir())) if any(folder.iterdir()) else "an empty folder"


def _first_line(e: Exception) -> str:
    return str(e).strip().split("\n")[0]
