"""Say what is wrong with a model folder, from its file names, its config and the headers of its weights."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from gaugeport.models.configs import check_depth, read_config
from gaugeport.models.safetensors_files import Header, read_header, refuse_lfs_pointer
from gaugeport.utils.files import expanded

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of weight files. ``from_pretrained`` takes the first that exists, in this order."""

ADAPTER_CONFIG = "adapter_config.json"
QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json")
"""What AutoGPTQ and AutoAWQ leave beside quantized weights."""

TRANSPORT_MANIFEST = "gaugeport_transport.json"
"""What a transport of a checkpoint leaves in its folder: how far it is, and of what it was made."""

POINTER_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".txt")
"""Endings of the files that a model or tokenizer is read from."""


VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "spiece.model")
"""Files that a tokenizer is read from, besides those with "token" in their name."""


def local_folder(path_or_id: str | Path) -> Path | None:
    """Return the local folder of a model, or None for a hub id.

    A hub id is ``name`` or ``owner/name``, unless there is such a folder. Raises ``FileNotFoundError`` for
    a path that does not exist, and ``ValueError`` for a file.
    """
    path = expanded(path_or_id)
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
    """Check that a folder holds one whole model and nothing that would change it, without reading tensors.

    Raises:
        FileNotFoundError: If the config, the weights or a shard is missing.
        ValueError: If the config is not JSON, is not valid, or is of an architecture that transformers does
            not know; if the weights are quantized; if an adapter lies beside them; if a file is a git-lfs
            pointer; if the index or a safetensors file is damaged, or they do not fit each other.
    """
    # 1) the config, and whatever else changes what the weights mean
    config = folder / "config.json"
    adapter = folder / ADAPTER_CONFIG
    if not config.is_file():
        if adapter.exists():
            base = read_json(adapter).get("base_model_name_or_path")
            raise FileNotFoundError(
                f"{folder} holds an adapter ({ADAPTER_CONFIG}), not a model: load its base {base!r}, and "
                "apply the adapter with peft"
            )
        unfinished = (folder / TRANSPORT_MANIFEST).is_file()
        hint = "; it is an unfinished transport: give the same command again" if unfinished else ""
        raise FileNotFoundError(f"no config.json in {folder}; got {listing(folder)}{hint}")
    for file in sorted(folder.iterdir()):
        if file.suffix in POINTER_SUFFIXES and file.is_file():
            refuse_lfs_pointer(file)
    content = read_json(config)
    _refuse_quantized(folder, content)
    if adapter.exists():
        raise ValueError(
            f"{folder} holds a model and an {ADAPTER_CONFIG}: transformers would apply that adapter to "
            f"weights that may hold it already. If it is merged into them, move {ADAPTER_CONFIG} away; if "
            "not, keep the adapter in a folder of its own and apply it to the base model with peft"
        )
    # 2) the weights
    files = weight_files(folder)
    tensors = None
    if files[0].suffix == ".safetensors":
        tensors = sum(len(header.tensors) for header in read_headers(folder))
    # 3) the config as transformers reads it
    check_depth(str(folder), read_config(folder, content), tensors)


def check_tokenizer_files(folder: Path) -> None:
    """Check that a folder holds files of a tokenizer.

    Raises:
        FileNotFoundError: If it holds none.
        ValueError: If one is a git-lfs pointer.
    """
    files = [f for f in folder.iterdir() if f.is_file() and ("token" in f.name or f.name in VOCABULARIES)]
    if not files:
        raise FileNotFoundError(
            f"no tokenizer in {folder}: expected tokenizer.json, or tokenizer_config.json with a "
            f"vocabulary; got {listing(folder)}"
        )
    for file in files:
        refuse_lfs_pointer(file)


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files that ``from_pretrained`` would read, the shards in order of their names.

    Raises:
        FileNotFoundError: If there are none, or if a shard is missing that the index names.
        ValueError: If the index is damaged, or names a file outside the folder.
    """
    present = [folder / f for f in WEIGHT_FILES if (folder / f).is_file()]
    if not present:
        raise FileNotFoundError(
            f"no weights in {folder}: expected one of {', '.join(WEIGHT_FILES)}; got {listing(folder)}"
        )
    if not present[0].name.endswith(".index.json"):
        return [present[0]]
    shards = sorted(set(_shard_of(present[0]).values()))
    missing = [s for s in shards if not (folder / s).is_file()]
    if missing or not shards:
        raise FileNotFoundError(
            f"{present[0]} names {len(shards)} shard(s); these are missing: {some(missing)}"
        )
    return [folder / s for s in shards]


def read_headers(folder: Path) -> list[Header]:
    """Return the header of every weight file of a folder, checked against each other and the index.

    Raises:
        FileNotFoundError: As :func:`weight_files`.
        ValueError: As :func:`weight_files`; if the weights are not safetensors, if one of the files is
            damaged or lacks a tensor that the index assigns to it, or if two hold the same tensor.
    """
    files = weight_files(folder)
    other = [f.name for f in files if f.suffix != ".safetensors"]
    if other:
        raise ValueError(
            f"{folder} keeps its weights in {some(other)}; expected safetensors files, which "
            "gaugeport.load_model(FOLDER).save_pretrained(NEW_FOLDER) writes"
        )
    headers = [read_header(f) for f in files]
    holder: dict[str, Path] = {}
    for header in headers:
        for name in header.tensors:
            if holder.setdefault(name, header.file) != header.file:
                raise ValueError(f"{name} is in two files: {holder[name]} and {header.file}")
    index = folder / WEIGHT_FILES[1]
    if files[0].name != WEIGHT_FILES[0]:
        for shard in files:
            assigned = [name for name, s in _shard_of(index).items() if folder / s == shard]
            absent = sorted(name for name in assigned if holder.get(name) != shard)
            if absent:
                raise ValueError(f"{shard} is missing tensors that the index assigns to it: {some(absent)}")
    return headers


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file. Raises ``ValueError``, which names the file, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path} is not readable JSON: {e}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content


def some(names: list[str], limit: int = 8) -> str:
    """Return the first names of a list as text, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def listing(folder: Path) -> str:
    """Return the names in a folder as text."""
    return some(sorted(p.name for p in folder.iterdir())) if any(folder.iterdir()) else "an empty folder"


def _shard_of(index: Path) -> dict[str, str]:
    """Return the shard of every tensor. Raise ``ValueError`` for one that lies outside the folder."""
    shard_of = read_json(index).get("weight_map", {})
    if not isinstance(shard_of, dict) or not all(isinstance(s, str) for s in shard_of.values()):
        raise ValueError(f"{index} is damaged: its weight_map must name a file for every tensor")
    for shard in sorted(set(shard_of.values())):
        path = PurePosixPath(shard)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in shard:
            raise ValueError(f"{index} names the shard {shard!r}, which is no file of this folder")
    return shard_of


def _refuse_quantized(folder: Path, content: dict[str, Any]) -> None:
    """Raise ``ValueError`` if a config or a file beside it says that the weights are quantized."""
    text = content.get("text_config")
    said = content.get("quantization_config") or (isinstance(text, dict) and text.get("quantization_config"))
    beside = [name for name in QUANTIZATION_FILES if (folder / name).exists()]
    if not said and not beside:
        return
    method = said.get("quant_method") if isinstance(said, dict) else None
    where = f"quantization_config in config.json, quant_method={method!r}" if said else some(beside)
    raise ValueError(
        f"{folder} holds quantized weights ({where}): a gauge acts on the weights themselves. Use the model "
        "before quantization, or dequantize it; if the weights are plain 16- or 32-bit floats, as after "
        "merging a QLoRA adapter, remove that entry or file"
    )
