"""Say which format the SAE in a folder is in."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from gaugeport.transport.folders import listing
from gaugeport.transport.sae_formats import dictionary_learning, sae_lens, sparsify

FORMATS: tuple[ModuleType, ...] = (sae_lens, sparsify, dictionary_learning)
"""Each has ``NAME``, ``WEIGHTS_FILE``, ``CONFIG_FILE``, ``read`` and ``recorded``."""


def format_of(source: Path) -> tuple[ModuleType, Path]:
    """Find the format of an SAE.

    Args:
        source: The folder of an SAE, or the file of its weights.

    Returns:
        The module of the format, and the folder.

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no SAE.
        ValueError: If the folder holds SAEs in several formats.
    """
    named = [f for f in FORMATS if source.name == f.WEIGHTS_FILE and source.is_file()]
    folder = source.parent if named else source
    known = "; ".join(f"{f.NAME}: {f.WEIGHTS_FILE} and {f.CONFIG_FILE}" for f in FORMATS)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}; expected the folder of an SAE ({known})")
    found = named or [f for f in FORMATS if (folder / f.WEIGHTS_FILE).is_file()]
    if len(found) > 1:
        names = ", ".join(f.WEIGHTS_FILE for f in found)
        raise ValueError(f"{folder} holds SAEs in {len(found)} formats; name one file of {names}")
    if not found:
        below = [
            p.name for p in sorted(folder.iterdir()) if any((p / f.WEIGHTS_FILE).is_file() for f in FORMATS)
        ]
        hint = f"; pass one of its folders: {', '.join(below)}" if below else ""
        raise FileNotFoundError(f"no SAE in {folder} ({known}); found {listing(folder)}{hint}")
    if not (folder / found[0].CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"no {found[0].CONFIG_FILE} beside {folder / found[0].WEIGHTS_FILE}; expected both, as "
            f"{found[0].NAME} writes them"
        )
    return found[0], folder
