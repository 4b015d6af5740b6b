"""Copy what surrounds moved tensors in a folder: configs, tokenizers and notes, but nothing unmoved."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from gaugeport.utils.files import check_apart, check_new, real

TENSOR_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".npy",
    ".npz",
    ".gguf",
    ".h5",
    ".msgpack",
)
"""Names of files that may hold tensors end like this. Such a file is moved, or left out; never copied."""


def copy_rest(source: Path, target: Path, moved: Collection[str], invariant: Collection[str] = ()) -> None:
    """Copy the other files of a folder, and warn about those that are left out.

    Left out are files that may hold tensors in the old coordinates, folders, and links that lead out of the
    folder (links into the hub's cache excepted).

    Args:
        source: The folder to copy from.
        target: The folder to copy to, which exists.
        moved: Names of the files that are written otherwise.
        invariant: Names of files of tensors that are the same in all coordinates.
    """
    left_out = []
    for item in sorted(source.iterdir()):
        if item.name in moved:
            continue
        unmoved = item.suffix.lower() in TENSOR_SUFFIXES and item.name not in invariant
        if unmoved or not item.is_file() or leads_out(item, source):
            left_out.append(item.name)
        else:
            shutil.copyfile(item, target / item.name)
    if left_out:
        warnings.warn(
            f"left out of what is moved from {source}: {', '.join(left_out)} (tensors in the old "
            "coordinates, folders, or links out of the folder)",
            stacklevel=4,
        )


def leads_out(item: Path, folder: Path) -> bool:
    """Return whether an item is a link out of its folder. Those of the hub's cache to its blobs are not."""
    leads_to, root = real(item), real(folder)
    allowed = [root] + [p.parent / "blobs" for p in root.parents if p.name == "snapshots"]
    return not any(place in leads_to.parents for place in allowed)


@contextmanager
def naming(what: Path | str | None) -> Iterator[None]:
    """Put the path or name of what is read in front of a ``ValueError`` or ``TypeError`` that lacks it."""
    try:
        yield
    except (ValueError, TypeError) as e:
        if what is None or str(what) in str(e):
            raise
        raise (TypeError if isinstance(e, TypeError) else ValueError)(f"{what}: {e}") from e


def check_new_file(source: Path, out: Path, suffix: str, force: bool) -> None:
    """Check where the result of moving a file goes.

    Raises:
        ValueError: If ``out`` is not named like its format, or is the source.
        FileExistsError: If ``out`` is a folder, or (without ``force``) exists.
    """
    if out.suffix.lower() != suffix.lower():
        raise ValueError(f"out={out}: expected a file named *{suffix}")
    if out.is_dir():
        raise FileExistsError(f"{out} is a folder; name a new file")
    check_apart(out, source)
    check_new(out, force)


def listing(folder: Path) -> str:
    """Name what lies in a folder, for an error message."""
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(p.name for p in folder.iterdir())) or "an empty folder"
