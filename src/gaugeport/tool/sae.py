"""Open an SAE of the user's, in any format that ``gaugeport transport sae`` reads, to compute with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gaugeport.groups import Element
from gaugeport.transport import transport_sae
from gaugeport.transport.folders import naming
from gaugeport.transport.sae_description import SAEDescription, axes_of
from gaugeport.transport.sae_file import move_stored
from gaugeport.transport.sae_formats import sae_lens
from gaugeport.transport.sae_formats.detect import format_of

Reconstruct = Callable[[Tensor], Tensor]
"""From activations of the stream, float32[n, d], to their reconstructions."""


def open_sae(source: Path, width: int) -> Callable[[Element | None], Reconstruct]:
    """Open an SAE on the residual stream.

    Args:
        source: Its folder, or the file of the weights in it.
        width: The width d of the model.

    Returns:
        A function that returns how the SAE reconstructs, moved by a gauge, or as it is for None.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged or unknown, the width is another, or it is a transcoder or not on the
            stream, so that it reconstructs something else.
    """
    sae_format, folder = format_of(source)
    with naming(folder):
        stored = sae_format.read(folder, None, None)
        axes_of(stored.description, stored.tensors)
        _check_on_stream(stored.description, width)
    if sae_format is sae_lens:
        from sae_lens import SAE

        sae = SAE.load_from_disk(str(folder), dtype="float32")
        return lambda g: sae if g is None else transport_sae(sae, g)

    @torch.no_grad()
    def moved(g: Element | None) -> Reconstruct:
        tensors = stored.tensors if g is None else move_stored(stored, g)
        wide = {n: t.detach().float() if t.is_floating_point() else t for n, t in tensors.items()}
        return lambda x: sae_format.reconstruct(stored.config, wide, x)

    with naming(folder):
        moved(None)(torch.zeros(1, width))  # what it lacks to compute with shows before a model is moved
    return moved


def _check_on_stream(sae: SAEDescription, width: int) -> None:
    if "transcoder" in sae.kind or sae.sites != {"in": "stream", "out": "stream"}:
        raise ValueError(
            f"the {sae.kind} (hooks {list(sae.hooks)}) reconstructs something else than the residual stream; "
            "expected an SAE on the stream"
        )
    if sae.sizes["in"] != width:
        raise ValueError(f"the {sae.kind} has d_in={sae.sizes['in']}; the model's width is {width}")
