"""Move an SAE from folder to folder, in the format of the library that wrote it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaugeport.groups import Element, check_is_element
from gaugeport.transport.folders import naming
from gaugeport.transport.sae_description import check_covariance, move_into, moved_axes, record_of
from gaugeport.transport.sae_formats.detect import format_of
from gaugeport.transport.sae_formats.stored import StoredSAE
from gaugeport.utils.files import check_apart, check_new


def transport_sae_file(
    source: str | Path,
    g: Element,
    out: str | Path,
    *,
    hook: str | None = None,
    hook_out: str | None = None,
    provenance: dict[str, Any] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write the SAE for activations ``g·x``: the same latents, and reconstructions moved by ``g``.

    Reads folders of sae-lens (``sae_weights.safetensors`` and ``cfg.json``), of EleutherAI's sparsify
    (``sae.safetensors`` and ``cfg.json``) and of dictionary_learning (``ae.pt`` and ``config.json``), and
    writes the same format: every other key, value, dtype and file stays as it is. Files that may hold other
    tensors, such as earlier checkpoints and optimizer states, are left out with a warning.

    Where the SAE sits is read from the config (sae-lens, dictionary_learning) or the folder's name
    (sparsify); without a name it is on the residual stream. An SAE on heads or neurons is invariant: it is
    copied, with a warning. Whether ``g`` is a gauge of the *model* is not checked here.

    Args:
        source: The folder, or the file of the weights in it. It is not changed.
        g: The gauge, of the SAE's width. An :class:`AffineGauge` moves the decoder's bias as a point.
        out: The new folder, written atomically.
        hook: Where the SAE reads, if the folder does not say so: a TransformerLens hook or a transformers
            module.
        hook_out: Where a transcoder writes, likewise.
        provenance: Where the gauge comes from, as JSON values, for the record.
        force: Replace what lies at ``out``.

    Returns:
        The record of the transport (group, width and digest of the gauge, the moved tensors, ``provenance``),
        which the new config lists under ``gaugeport``.

    Raises:
        TypeError: If ``g`` is not a gauge element.
        ValueError: If a file is damaged; if the class of the SAE, a tensor, a dtype or a hook is unknown; if
            ``g`` has another width or does not commute with the encoder; if ``out`` is not apart from
            ``source``. Nothing is written then.
        FileNotFoundError: If a file is missing.
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    check_is_element(g)
    source, out = Path(source), Path(out)
    sae_format, folder = format_of(source)
    check_apart(out, source, folder)
    check_new(out, force)
    # 1) read it, and check that the result is covariant
    with naming(folder):
        stored = sae_format.read(folder, hook, hook_out)
        moving = moved_axes(stored.description, stored.tensors)
        check_covariance(stored.description, g)
        record = record_of(stored.description, g, moving, provenance)
    if stored.description.note is not None:
        warnings.warn(f"transport_sae_file: {stored.description.note}; copied as it is", stacklevel=2)
    # 2) move and write it
    stored.write(_moved(stored, g, moving), sae_format.recorded(stored.config, record), out, force)
    return record


def move_stored(stored: StoredSAE, g: Element) -> dict[str, Tensor]:
    """Return the tensors of an SAE for activations ``g·x``.

    Args:
        stored: The SAE, as its format's ``read`` returns it.
        g: The gauge.

    Raises:
        ValueError: As :func:`transport_sae_file`, of what the folder holds.
    """
    with naming(stored.folder):
        moving = moved_axes(stored.description, stored.tensors)
        check_covariance(stored.description, g)
    return _moved(stored, g, moving)


def _moved(stored: StoredSAE, g: Element, moving: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    moved = {name: torch.empty_like(t.detach()) for name, t in stored.tensors.items()}
    move_into(stored.description, g, stored.tensors, moving, moved)
    return moved
