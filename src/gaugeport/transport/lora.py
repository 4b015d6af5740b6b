"""Move LoRA adapters of the peft library to another residual basis, or to a model whose gains are folded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, chart_of, check_movable
from gaugeport.groups import Element, Orthogonal, SignedPermutation
from gaugeport.transport.axis import InPlace
from gaugeport.transport.directions import COORDINATEWISE_GROUPS
from gaugeport.transport.folders import naming
from gaugeport.transport.lora_files import read_adapter, write_adapter
from gaugeport.transport.lora_rules import ROLES, axes_of, rule_of
from gaugeport.transport.model import check_gauge_fits
from gaugeport.utils.files import check_apart, check_new


def transport_lora(
    source: str | Path | Mapping[str, Tensor],
    g: Element,
    base: nn.Module | Chart,
    out: str | Path | None = None,
    *,
    config: Any = None,
    base_name: str | None = None,
    strict: bool = True,
    force: bool = False,
) -> dict[str, Tensor]:
    """Move an adapter: the result does to ``transport_model(A, g)`` what the adapter does to A.

    ``lora_A`` of modules that read the stream, ``lora_B`` (and its bias) of modules that write to it, and
    ``lora_embedding_B`` move as vectors. DoRA magnitudes of writers and embeddings are permuted only; those
    of readers stay. Full tensors follow the chart's rule.

    An adapter that was trained before its base was folded has to go through :func:`fold_lora` before a
    rotation.

    Args:
        source: The folder of a peft adapter, or its state dict (``get_peft_model_state_dict``) with its
            ``config``.
        g: The gauge, linear and of the width of the base.
        base: A model of the architecture that the adapter is for (without the adapter), or its chart.
        out: A new folder to write the moved adapter to, atomically.
        config: The adapter's config (peft's, or a dict), if ``source`` is a state dict.
        base_name: The new ``base_model_name_or_path``: the old base is not the one the moved adapter fits.
        strict: Refuse a gauge from outside the chart's group.
        force: Replace what lies at ``out``.

    Returns:
        The moved state dict.

    Raises:
        TypeError: If ``g`` is not a gauge element.
        ValueError: If the adapter is of another kind, has an option listed in ``lora_rules.REFUSED_OPTIONS``,
            or a module that the chart does not know; if ``g`` does not fit the chart; if ``g`` is a rotation
            and the adapter holds magnitudes or gains; if ``out`` is not apart from ``source``. Nothing is
            written then.
        FileNotFoundError: If the folder ``source`` or one of its files is missing.
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    folder = _check_places(source, out, force)
    tensors, settings, history = read_adapter(source, config)
    chart = base if isinstance(base, Chart) else chart_of(base)
    check_gauge_fits(chart, g, strict)
    assert isinstance(g, SignedPermutation | Orthogonal)
    moved = {}
    with InPlace(g) as act, naming(folder):
        for key, tensor in tensors.items():
            axes = axes_of(chart, key, tensor)
            if "gain" in axes and isinstance(g, Orthogonal):
                raise ValueError(
                    f"{key} holds a magnitude per coordinate, which a rotation ({g.group!r}) cannot move; "
                    f"allowed groups: {COORDINATEWISE_GROUPS}"
                )
            if set(axes) != {"none"} and (not tensor.is_floating_point() or tensor.element_size() < 2):
                raise ValueError(f"{key} is {tensor.dtype}; expected floats of 16 bits or more")
            moved[key] = tensor.detach().clone()
            act.by_kinds(moved[key], axes)
    if out is not None:
        history = {**history, "transport_lora": g.group}
        write_adapter(moved, settings, out, history, base_name, folder, force)
    return moved


def fold_lora(
    source: str | Path | Mapping[str, Tensor],
    model: nn.Module,
    out: str | Path | None = None,
    *,
    config: Any = None,
    base_name: str | None = None,
    force: bool = False,
) -> dict[str, Tensor]:
    """Fold the gains of a model into its adapter: the result fits ``fold_gains(model)``.

    A reader's ``(W + s·B·A)·diag(γ)`` is ``W' + s·B·(A·diag(γ))``, so its A takes the gain γ of the norm that
    feeds it. So do whole readers saved with the adapter; a LayerNorm bias becomes β/γ. Products are in
    float32 or wider and are rounded once. The written files record that they are folded.

    Some adapters do not fold by themselves: DoRA on a reader (its row norms change with the gains), gains
    trained with the adapter, and trained tokens that a tied unembedding shares, or that
    ``ensure_weight_tying`` makes it share. Merging such an adapter into the model before folding always
    works.

    Args:
        source: The folder of a peft adapter, or its state dict (``get_peft_model_state_dict``) with its
            ``config``.
        model: The model as it was before ``fold_gains``, without the adapter.
        out: A new folder to write the folded adapter to, atomically.
        config: The adapter's config (peft's, or a dict), if ``source`` is a state dict.
        base_name: The new ``base_model_name_or_path``.
        force: Replace what lies at ``out``.

    Returns:
        The folded state dict.

    Raises:
        ValueError: If the adapter cannot be moved (see :func:`transport_lora`), does not fold by itself or is
            folded already; if the model cannot be folded or all its gains are 1 already; if a product exceeds
            what the adapter's dtype holds; if ``out`` is not apart from ``source``.
        FileNotFoundError: If the folder ``source`` or one of its files is missing.
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    folder = _check_places(source, out, force)
    tensors, settings, history = read_adapter(source, config)
    if "fold_lora" in history:
        raise ValueError(
            f"{source} was folded already (its file says so): fold the adapter as it was trained"
        )
    chart = _foldable_chart(model)
    parameters = dict(model.named_parameters())
    folded = {}
    with naming(folder):
        for key, tensor in tensors.items():
            folded[key] = _folded_tensor(chart, parameters, settings, key, tensor)
    if out is not None:
        history = {**history, "fold_lora": chart.model_type}
        write_adapter(folded, settings, out, history, base_name, folder, force)
    return folded


def _check_places(source: Any, out: str | Path | None, force: bool) -> Path | None:
    """Return the folder that an adapter comes from, if it is one, after checking ``out`` against it."""
    folder = Path(source) if isinstance(source, str | os.PathLike) else None
    if out is not None:
        check_apart(Path(out), *([folder] if folder is not None else []))
        check_new(Path(out), force)
    return folder


def _folded_tensor(
    chart: Chart, parameters: Mapping[str, Tensor], settings: Mapping[str, Any], key: str, tensor: Tensor
) -> Tensor:
    """Return one tensor of a folded adapter. Raises ``ValueError`` if it does not fold by itself."""
    axes, (rule, target, part) = axes_of(chart, key, tensor), rule_of(chart, key)
    # 1) refuse what does not fold by itself
    dora_on_reader = part == "lora_magnitude_vector" and ROLES[rule.role] == "read"
    shared_by_tying = chart.tied and (
        part == "token_adapter.trainable_tokens_delta"
        or (settings.get("ensure_weight_tying") and rule.role in ("embed", "unembed"))
    )
    if rule.role == "gain" or dora_on_reader or shared_by_tying:
        raise ValueError(f"{key} does not fold by itself; merge the adapter into the model, then fold_gains")
    # 2) multiply what reads the stream (or divide a norm's bias) by the gain of its norm
    folded, norm = tensor.detach().clone(), rule.norm_of(target)
    if norm is None or "vector" not in axes:
        return folded
    wide = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    gain = parameters[f"{norm}.weight"].detach().to(wide) + chart.family.gain_offset
    gain = gain.view([chart.width if kind == "vector" else 1 for kind in axes])
    if rule.role == "norm_bias" and bool((gain == 0).any()):
        raise ValueError(f"{key} cannot be folded: {norm} has gains of exactly 0, and the bias becomes β/γ")
    folded.copy_(wide / gain if rule.role == "norm_bias" else wide * gain)
    if not bool(torch.isfinite(folded).all()) and bool(torch.isfinite(wide).all()):
        raise ValueError(f"{key}, folded, exceeds what {tensor.dtype} holds: load the adapter in float32")
    return folded


def _foldable_chart(model: nn.Module) -> Chart:
    """Return the chart of a model whose gains are in place and can be folded. Raises ``ValueError``."""
    chart = chart_of(model)
    if not chart.foldable:
        raise ValueError(
            f"the gains of {chart.model_type} cannot be folded (post-norm), so there is nothing to fold into"
        )
    if chart.folded:
        raise ValueError(
            "all gains of this model are 1, so they do not tell what to fold into the adapter; pass the "
            "model as it was before fold_gains (an adapter trained on the folded model needs no folding)"
        )
    check_movable(chart, model)
    return chart
