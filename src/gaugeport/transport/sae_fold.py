"""Fold the gain of a norm into an SAE on the norm's output, as ``fold_gains`` folds it into the model.

A norm's output ``y = γ ⊙ n(x) + β`` becomes ``y' = y / γ`` in the folded model (``fold_gains`` leaves β/γ on
a LayerNorm). The SAE that gives y' the latents that it gave y, and reconstructs ``recon / γ``, has the rows
of its encoder times γ, and the columns of its decoder and the decoder's bias divided by γ::

    (y - b_dec) · W_enc = (y' - b_dec/γ) · (γ ⊙ W_enc),      (f · W_dec + b_dec) / γ = f · (W_dec/γ) + b_dec/γ

A transcoder that reads a norm's output and writes elsewhere has the rows of its encoder times γ only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaugeport.transport.folders import naming
from gaugeport.transport.sae import AnySAE, describe_sae, empty_twin
from gaugeport.transport.sae_description import SAEDescription, moved_axes
from gaugeport.transport.sae_formats.detect import format_of
from gaugeport.utils.files import check_apart, check_new
from gaugeport.utils.precision import at_least_float32

LINEAR_NORMALIZATIONS = ("none", "constant_scalar_rescale")
"""What may happen to an input before the encoder. The others measure its size, which folding changes."""


def fold_sae(sae: AnySAE, gain: Tensor) -> AnySAE:
    """Return the SAE for the same site of ``fold_gains(model)``: the same latents, reconstructions / gain.

    Products are taken in float32 or wider and rounded once. The result records that it is folded, so that
    :func:`~gaugeport.transport.sae.transport_sae` moves it by rotations too. An SAE that was trained on a
    folded model gets the record by a gain of ones.

    Args:
        sae: A sae-lens SAE or transcoder whose input is a norm's output, by its ``hook_name``. It is not
            changed.
        gain: float[d], what the norm multiplies by: its weight, in Gemma 1 + weight.

    Returns:
        A new object of the same class, dtype and device.

    Raises:
        TypeError: If ``sae`` is not an SAE of sae-lens, or ``gain`` is no tensor of floats.
        ValueError: If no side of the SAE is behind a gain, or two different gains are; if it is folded
            already; if a gain is 0 or not finite; if the latents depend on the decoder's norms, or on the
            size of the input; if a product exceeds what the dtype holds.
    """
    description = describe_sae(sae)
    tensors = {**dict(sae.named_parameters()), **dict(sae.named_buffers())}
    folded, record = _folded(description, tensors, gain)
    twin = empty_twin(sae, tensors, None)
    with torch.no_grad():
        for name, target in twin.state_dict().items():
            target.copy_(folded[name])
    twin.cfg.metadata["gaugeport"] = [*(twin.cfg.metadata.get("gaugeport") or []), record]
    return twin


def fold_sae_file(
    source: str | Path,
    gain: Tensor,
    out: str | Path,
    *,
    hook: str | None = None,
    hook_out: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Fold a gain into an SAE in a folder of sae-lens, sparsify or dictionary_learning, and write its format.

    Args:
        source: The folder, or the file of the weights in it. It is not changed.
        gain: float[d], what the norm multiplies by.
        out: The new folder, written atomically.
        hook: Where the SAE reads, if the folder does not say so.
        hook_out: Where a transcoder writes, likewise.
        force: Replace what lies at ``out``.

    Returns:
        The record of the folding, which the new config lists under ``gaugeport``.

    Raises:
        TypeError: If ``gain`` is no tensor of floats.
        ValueError: As for :func:`fold_sae`; if a file is damaged; if ``out`` is not apart from ``source``.
            Nothing is written then.
        FileNotFoundError: If a file is missing.
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    source, out = Path(source), Path(out)
    sae_format, folder = format_of(source)
    check_apart(out, source, folder)
    check_new(out, force)
    with naming(folder):
        stored = sae_format.read(folder, hook, hook_out)
        folded, record = _folded(stored.description, stored.tensors, gain)
    stored.write(folded, sae_format.recorded(stored.config, record), out, force)
    return record


@torch.no_grad()
def _folded(
    sae: SAEDescription, tensors: Mapping[str, Tensor], gain: Tensor
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the folded tensors of an SAE, and the record of it."""
    _check_gain(gain)
    _check_foldable(sae, gain)
    moved_axes(sae, tensors)  # checks names, shapes and dtypes
    behind = {side for side, site in sae.sites.items() if site == "gain"}
    folded = {}
    for name, t in tensors.items():
        product = at_least_float32(t.detach()).clone() if t.is_floating_point() else t.detach().clone()
        for axis, kind in enumerate(sae.rules_for(name)):
            if kind in behind:
                factor = gain.detach().to(product).view([-1 if i == axis else 1 for i in range(t.dim())])
                product = product * factor if kind == "in" else product / factor
        folded[name] = product.to(t.dtype)
        if t.is_floating_point() and bool((torch.isfinite(product) & ~torch.isfinite(folded[name])).any()):
            raise ValueError(
                f"{name}, folded, exceeds what {t.dtype} holds: convert the SAE to float32 first"
            )
    changed = [name for name in tensors if behind & set(sae.rules_for(name))]
    digest = hashlib.sha256(gain.detach().cpu().double().contiguous().numpy().tobytes()).hexdigest()[:16]
    return folded, {"folded": changed, "width": len(gain), "digest": digest}


def _check_gain(gain: Tensor) -> None:
    if not isinstance(gain, Tensor) or not gain.is_floating_point():
        given = str(gain.dtype) if isinstance(gain, Tensor) else type(gain).__name__
        raise TypeError(f"gain: expected a tensor of floats, got {given}")
    if gain.dim() != 1 or not bool(torch.isfinite(gain).all()):
        raise ValueError(f"gain: expected one finite number per coordinate, got shape {tuple(gain.shape)}")
    zeros = (gain == 0).nonzero().flatten().tolist()
    if zeros:
        raise ValueError(
            f"gains of 0 cannot be divided by; coordinates at 0: {zeros[:8]}, {len(zeros)} in all"
        )


def _check_foldable(sae: SAEDescription, gain: Tensor) -> None:
    behind = [side for side in ("in", "out") if sae.sites[side] == "gain"]
    if not behind:
        raise ValueError(
            f"neither side of this {sae.kind} is behind the gain of a norm (hooks {list(sae.hooks)}): "
            "folding leaves it as it is"
        )
    if sae.folded:
        raise ValueError(f"this {sae.kind} was folded already: its record says so")
    if "out" in behind and sae.hooks[1] not in (None, sae.hooks[0]):
        raise ValueError(f"this {sae.kind} writes behind a gain of its own (hooks {list(sae.hooks)})")
    for side in behind:
        if sae.sizes[side] != len(gain):
            raise ValueError(
                f"gain: expected {sae.sizes[side]} entries, as this {sae.kind} is wide; got {len(gain)}"
            )
    if sae.uses_decoder:
        raise ValueError(
            f"the latents of this {sae.kind} depend on its decoder ({sae.uses_decoder}), whose columns "
            "folding divides by the gain: they would change"
        )
    if sae.normalization not in LINEAR_NORMALIZATIONS:
        raise ValueError(
            f"normalize_activations={sae.normalization!r} measures the input, which folding changes; fold "
            f"that into the SAE first; allowed: {', '.join(LINEAR_NORMALIZATIONS)}"
        )
    if behind == ["in"] and sae.subtracts_bias:
        raise ValueError(f"the encoder of this {sae.kind} subtracts {sae.bias}, which is not behind the gain")
