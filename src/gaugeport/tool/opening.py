"""Open what a user names: a model folder, a hub id, or a ``.gguf`` file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gaugeport.models.gguf_files import is_gguf
from gaugeport.models.loading import hide_progress_bars, load_model, load_tokenizer, local_folder
from gaugeport.utils.files import check_apart, check_replaceable, expanded

SHARE_OF_MEMORY = 0.6
"""Two models are loaded together if both, in float32, take at most this share of the machine's memory."""


def opener(name: str, device_map: str | None = None) -> Callable[[], Any]:
    """Return a function that loads a model in float32, whatever dtype it is stored in.

    A gauge belongs to the function and not to its rounding, and 16-bit products are slow on many CPUs.
    """

    def load() -> Any:
        hide_progress_bars()
        return load_model(name, dtype="float32", device_map=device_map)

    return load


def bars_on_terminals_only() -> None:
    """Hide transformers' progress bars of loading and saving where they would become lines of a log."""
    if not sys.stderr.isatty():
        hide_progress_bars()


def check_place(out: Path, *read: str | Path | None) -> None:
    """Check that a result can be written without touching what a command reads.

    Args:
        out: Where the result goes.
        read: Names of models, files and folders; of those, paths that exist count.

    Raises:
        ValueError: The result would lie at, in or around one of them.
        FileExistsError: A link, a device or a pipe lies at ``out``, or no folder in front of it.
    """
    check_replaceable(out)
    check_apart(out, *(path for name in read if name is not None and (path := expanded(name)).exists()))


def shared_tokenizer(a: str, b: str) -> Any:
    """Return A's tokenizer, once it is known to give B's tokens.

    Raises:
        ValueError: The tokenizers differ on some text.
        FileNotFoundError: A folder has no tokenizer.
    """
    from gaugeport.alignment.tokenizers import check_tokenizers

    tokenizer = load_tokenizer(a)
    check_tokenizers(tokenizer, load_tokenizer(b))
    return tokenizer


def fit_together(names: Sequence[str]) -> bool:
    """Return whether all models fit in memory at once, as far as their files tell (a hub id does not)."""
    sizes = [_float32_bytes(name) for name in names]
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return True
    return sum(sizes) <= SHARE_OF_MEMORY * memory


def safetensors_folder(name: str) -> Path | None:
    """Return the folder of a model whose weights are safetensors, or None: those stream from disk."""
    if is_gguf(name):
        return None
    folder = local_folder(name)
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None


def _float32_bytes(name: str) -> int:
    if is_gguf(name):
        return 8 * expanded(name).stat().st_size  # 4 bits a weight, at the least
    folder = local_folder(name)
    if folder is None:
        return 0
    # 16 bits a weight, at the least; stored float32 weights are counted twice, which only errs to caution
    files = list(folder.glob("*.safetensors")) or list(folder.glob("pytorch_model*.bin"))
    return 2 * sum(p.stat().st_size for p in files)
