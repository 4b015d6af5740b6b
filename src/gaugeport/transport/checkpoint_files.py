"""Say which files of a model folder are moved, copied or left out, and where their copies may be written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gaugeport.models.checkpoint import Checkpoint
from gaugeport.models.folders import (
    ADAPTER_CONFIG,
    QUANTIZATION_FILES,
    TRANSPORT_MANIFEST,
    WEIGHT_FILES,
    listing,
)
from gaugeport.transport.checkpoint_manifest import Manifest, read_manifest
from gaugeport.transport.folders import TENSOR_SUFFIXES, leads_out
from gaugeport.utils.files import atomic_file, real

CONFIG, INDEX = "config.json", WEIGHT_FILES[1]
COPIED_FOLDERS = ("additional_chat_templates",)
OTHER_FORMATS = (".onnx", ".ot", ".tflite")
"""Suffixes of weights for other programs, besides those that no transport copies."""

OLDER_MODEL = (CONFIG, "model*.safetensors", "pytorch_model*.bin", *WEIGHT_FILES)
"""What ``force`` removes from the output folder."""

LEFT_OUT_REASONS = {
    "optimizer": "transport_optimizer moves the state of an optimizer",
    "rng_state": "a state of training",
    "scheduler": "a state of training",
    "training_args": "a state of training",
}
"""Why a file is left out, by the start of its name."""


@dataclass(frozen=True)
class Plan:
    """The files of a source folder.

    Attributes:
        copied: Name -> path of what is copied, without the config.
        left_out: Name -> why it is left out.
    """

    copied: dict[str, Path]
    left_out: dict[str, str]


def plan_files(checkpoint: Checkpoint) -> Plan:
    """Sort the files of a model folder.

    Raises ``ValueError`` if the config or a weight file is a link out of the folder. Links of the hub's cache
    to its blobs are followed.
    """
    folder = checkpoint.folder
    copied: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    own = [folder / CONFIG, *(header.file for header in checkpoint.headers)]
    for path in own:
        if leads_out(path, folder):
            raise ValueError(
                f"{path} is a link out of the folder, to {real(path)}; it is not followed when a folder "
                "is written: copy the file to its place"
            )
    indexed = INDEX if checkpoint.headers[0].file.name != WEIGHT_FILES[0] else None
    for item in sorted(folder.iterdir()):
        name = item.name
        if name in {path.relative_to(folder).parts[0] for path in own} | {TRANSPORT_MANIFEST}:
            continue
        if item.is_dir() and name in COPIED_FOLDERS and not leads_out(item, folder):
            files = [f for f in sorted(item.iterdir()) if f.is_file() and not leads_out(f, folder)]
            copied |= {f"{name}/{f.name}": f for f in files}
        elif reason := _left_out_for(item, folder, indexed):
            left_out[name] = reason
        else:
            copied[name] = item
    return Plan(copied, left_out)


def _left_out_for(item: Path, folder: Path, indexed: str | None) -> str:
    """Return why something in a folder is not copied; empty if it is."""
    if not item.is_file():
        return "a folder"
    if leads_out(item, folder):
        return f"a link out of the folder, to {real(item)}"
    if item.suffix.lower() in (*TENSOR_SUFFIXES, *OTHER_FORMATS):
        why = (why for start, why in LEFT_OUT_REASONS.items() if item.name.startswith(start))
        return next(why, "tensors in the old coordinates")
    if item.name.endswith(".index.json") and item.name != indexed:
        return "the index of other weights"
    return ""


def prepare_out(out: Path, command: Manifest, force: bool) -> Manifest:
    """Empty the output folder of an older model, or find what an interrupted run of the same command left.

    A file that was recorded as done and has no name yet gets it; other unfinished files are removed.

    Args:
        out: The output folder.
        command: The manifest of a transport that begins.
        force: Whether to write into a folder that holds something else. A model in it is removed first; other
            files stay, or are replaced by files of their name.

    Returns:
        The manifest to go on from.

    Raises:
        FileExistsError: If the folder holds something else, and ``force`` is False.
        ValueError: If the folder holds an adapter or is marked as quantized, and its model would be refused.
    """
    for path in out.glob(f".{TRANSPORT_MANIFEST}.*.partial"):  # an earlier call was killed as it began
        path.unlink()
    found = read_manifest(out)
    if found is not None and found.same_command(command) and not found.complete:
        (out / CONFIG).unlink(missing_ok=True)  # a file that is found damaged now must not load
        for folder in (out, *(out / name for name in COPIED_FOLDERS)):
            for path in folder.glob(".*.partial"):
                final = path.with_name(path.name.removeprefix(".").removesuffix(".partial"))
                if str(final.relative_to(out)) in found.done and not final.exists():
                    path.rename(final)  # it was whole; the caller checks what is recorded
                else:
                    path.unlink()
        return found
    if any(out.iterdir()):
        if not force:
            what = listing(out)
            if found is not None:
                same = found.same_command(command)
                what = f"the transport of {'this' if same else 'another'} source and gauge"
            raise FileExistsError(f"{out} is not empty: it holds {what}. Name another folder, or force=True")
        for name in (ADAPTER_CONFIG, *QUANTIZATION_FILES):
            if (out / name).exists():
                raise ValueError(f"{out} holds {name}, which may not lie beside a model: move it away")
        for pattern in OLDER_MODEL:
            for path in out.glob(pattern):
                path.unlink()
    command.write(out)
    return command


def refuse_links_out(out: Path, names: Iterable[str]) -> None:
    """Raise ``ValueError`` if a folder in the output folder is a link: files would be written elsewhere."""
    for parent in {(out / name).parent for name in names}:
        if not real(parent).is_relative_to(real(out)):
            raise ValueError(f"{parent} is a link out of {out}, to {real(parent)}: move it away")


def copy_file(path: Path, target: Path) -> None:
    """Copy the bytes of a file atomically."""
    with atomic_file(target) as temporary:
        shutil.copyfile(path, temporary)
