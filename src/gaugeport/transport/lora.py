"""LoRA adapters of the peft library, carried to another residual basis or to a model with folded gains.

In peft's files ``lora_A`` is [r, in] and ``lora_B`` [out, r] for Linear and Conv1D alike, and an embedding has
``lora_embedding_A`` [r, tokens] and ``lora_embedding_B`` [d, r]. So a module that reads the stream has it on the last
axis of A, one that writes has it on the first axis of B; full tensors (``modules_to_save``, trained biases) follow
the chart's own rule of their name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, chart_of, check_movable
from gaugeport.charts.rules import Rule
from gaugeport.groups import Element, Orthogonal, SignedPermutation
from gaugeport.models.loading import check_safetensors
from gaugeport.transport.axis import InPlace
from gaugeport.transport.model import check_element
from gaugeport.utils.files import atomic_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

LORA_AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "read": {"lora_A.weight": ("none", "vector"), "token_adapter.trainable_tokens_delta": ("none", "vector")},
    "write": {
        "lora_B.weight": ("vector", "none"),
        "lora_B.bias": ("vector",),
        "lora_magnitude_vector": ("gain",),  # DoRA: the norm of each row of the matrix that writes
    },
    "embed": {
        "lora_embedding_B": ("vector", "none"),
        "lora_magnitude_vector": ("gain",),  # per coordinate of the stream here too, not per token
        "token_adapter.trainable_tokens_delta": ("none", "vector"),  # whole rows, despite the name
    },
}
"""Stream axes of a LoRA's tensors, by what its module does; every other tensor of a LoRA has none."""

ROLES = {"read": "read", "unembed": "read", "write": "write", "embed": "embed", "position": "embed"}

_PART = re.compile(
    r"(.+)\.(lora_[AB]\.weight|lora_B\.bias|lora_embedding_[AB]|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)"
)

REFUSED = {
    "use_qalora": "QA-LoRA pools neighbouring input features",
    "use_bdlora": "BD-LoRA is block-diagonal in the features",
    "velora_config": "VeLoRA groups neighbouring features while training",
    "monteclora_config": "MonteCLoRA carries a sampler of its own",
    "kasa_config": "KaSA truncates the base weights when it is loaded",
    "arrow_config": "Arrow routes between several adapters",
    "layer_replication": "replicated layers are no blocks of the chart",
    "target_parameters": "parameters targeted by name have no module whose axes the chart knows",
}
"""Options of a LoRA config that are not carried, and why."""

REWRITING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations with which peft rewrites the *base* weights each time the adapter is loaded."""


def transport_lora(
    source: str | Path | Mapping[str, Tensor],
    g: Element,
    base: nn.Module | Chart,
    out: str | Path | None = None,
    *,
    config: Any = None,
    base_name: str | None = None,
    strict: bool = True,
) -> dict[str, Tensor]:
    """The adapter with ``g`` acting on the stream: what it was on A, it is on ``transport_model(A, g)``.

    ``source`` is the folder of a peft adapter, or its state dict (``get_peft_model_state_dict``) with its ``config``
    (peft's, or as a dict). ``base`` is a model of the architecture it is meant for (without the adapter), or its chart.
    The moved state dict is returned; with ``out`` it is also written there as an adapter folder, aside first and then
    renamed.
    As the base it was trained on is not the one it fits now, ``base_model_name_or_path`` becomes ``base_name``.
    An adapter trained before its base was folded has to go through :func:`fold_lora` before a rotation.

    Readers' ``lora_A``, writers' ``lora_B`` (with its bias) and ``lora_embedding_B`` are vectors; DoRA magnitudes of
    writers and embeddings are permuted only, of readers untouched; whole tensors go by the chart's rule.

    Raises ``ValueError`` for another kind of adapter (named), an option of :data:`REFUSED`, a module the chart does
    not know, a gauge outside the chart's group (unless not ``strict``), and magnitudes or gains under a rotation;
    ``FileNotFoundError`` and ``FileExistsError`` for the folders. Then nothing is written. Source: DESIGN §1.
    """
    tensors, settings, past = _read(source, config)
    chart = base if isinstance(base, Chart) else chart_of(base)
    check_element(chart, g, strict)
    assert isinstance(g, SignedPermutation | Orthogonal)
    moved = {}
    with InPlace(g) as act:
        for key, tensor in tensors.items():
            moved[key] = tensor.detach().clone()
            for axis, kind in enumerate(_axes(chart, key, tensor)):
                if kind == "vector":
                    act.vector(moved[key], axis)
                elif kind == "gain" and isinstance(g, Orthogonal):
                    raise ValueError(
                        f"{key} holds a magnitude per coordinate, on which a rotation ({g.group!r}) does not act; "
                        "allowed groups: permutation, global_sign_permutation, signed_permutation"
                    )
                elif kind == "gain":
                    act.gain(moved[key], axis)
    _write(moved, settings, out, {**past, "transport_lora": g.group}, base_name)
    return moved


def fold_lora(
    source: str | Path | Mapping[str, Tensor],
    model: nn.Module,
    out: str | Path | None = None,
    *,
    config: Any = None,
    base_name: str | None = None,
) -> dict[str, Tensor]:
    """The adapter for ``fold_gains(model)``, from the one for ``model`` with its gains in place.

    A reader's ``(W + s·B·A)·diag(γ)`` is ``W' + s·B·(A·diag(γ))``: its A carries the gain γ of the norm that feeds it,
    as do whole readers saved with the adapter, and a LayerNorm bias becomes β/γ. Arguments as for
    :func:`transport_lora`, ``model`` being the unfolded one. Products are in float32 or wider and rounded once. The files
    written say that they are folded.

    Raises ``ValueError`` where :func:`transport_lora` and ``fold_gains`` do, and for what does not fold by itself:
    DoRA on a reader (its row norms change with the gains), gains trained with the adapter, and trained tokens that a
    tied unembedding shares (or that ``ensure_weight_tying`` makes it share). Merging such an adapter into the model before
    folding always works. Nor is a ``model`` taken whose gains are all 1 (folded already), an adapter that is folded already,
    or products that are beyond what float16 holds.
    """
    tensors, settings, past = _read(source, config)
    if "fold_lora" in past:
        raise ValueError(
            f"{source} was folded already (its file says so): fold the adapter as it was trained"
        )
    chart = chart_of(model)
    if not chart.foldable:
        raise ValueError(
            f"the gains of {chart.model_type} cannot be folded (post-norm), so there is nothing to fold into"
        )
    if chart.folded:
        raise ValueError(
            "all gains of this model are 1, so that it says nothing of what to fold into the adapter; pass the model as it "
            "was before fold_gains (an adapter trained on the folded model needs no folding)"
        )
    check_movable(chart, model)
    parameters = dict(model.named_parameters())
    folded = {}
    for key, tensor in tensors.items():
        axes, (rule, target, part) = _axes(chart, key, tensor), _rule(chart, key)
        folded[key] = tensor.detach().clone()
        dora = part == "lora_magnitude_vector" and ROLES[rule.role] == "read"
        tied = chart.tied and (
            part == "token_adapter.trainable_tokens_delta"
            or (settings.get("ensure_weight_tying") and rule.role in ("embed", "unembed"))
        )
        if rule.role == "gain" or dora or tied:
            raise ValueError(
                f"{key} does not fold by itself; merge the adapter into the model, then fold_gains"
            )
        norm = rule.norm_of(target)
        if norm is None or "vector" not in axes:
            continue
        wide = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
        gain = (parameters[f"{norm}.weight"].detach().to(wide) + chart.family.gain_offset).view(
            [chart.width if kind == "vector" else 1 for kind in axes]
        )
        if rule.role == "norm_bias" and bool((gain == 0).any()):
            raise ValueError(
                f"{key} cannot be folded: {norm} has gains of exactly 0, and the bias becomes β/γ"
            )
        folded[key].copy_(wide / gain if rule.role == "norm_bias" else wide * gain)
        if not bool(torch.isfinite(folded[key]).all()) and bool(torch.isfinite(wide).all()):
            raise ValueError(
                f"{key}, folded, is beyond what {tensor.dtype} holds: load the adapter in float32"
            )
    _write(folded, settings, out, {**past, "fold_lora": chart.model_type}, base_name)
    return folded


def _axes(chart: Chart, key: str, tensor: Tensor) -> tuple[str, ...]:
    """What each axis of a tensor of the adapter is. Raises ``ValueError`` naming it if the chart does not know it."""
    rule, _, part = _rule(chart, key)
    axes: tuple[str, ...] = rule.axes
    if part is not None:
        axes = LORA_AXES[ROLES[rule.role]].get(part, ("none",) * tensor.dim())
    d, shape = chart.width, tuple(tensor.shape)
    if len(axes) != len(shape) or any(k != "none" and n != d for k, n in zip(axes, shape, strict=True)):
        raise ValueError(f"{key} has shape {shape}, expected axes {axes} with every vector and gain axis {d}")
    return axes


def _rule(chart: Chart, key: str) -> tuple[Rule, str, str | None]:
    """The chart's rule for a key, the parameter of the model that it is about, and which LoRA part of it it is."""
    name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
    found = _PART.fullmatch(name)
    target, part = (f"{found[1]}.weight", found[2]) if found else (name, None)
    rule = chart.rules.get(target)
    if (
        rule is None and chart.tied and target == f"{chart.family.unembedding}.weight"
    ):  # a tied tensor's second name
        rule = next(r for r in chart.family.rules if r.match(target) is not None)
    if rule is None or (part is not None and rule.role not in ROLES):
        matrices = [n.removesuffix(".weight") for n, r in chart.rules.items() if r.role in ROLES]
        known = ", ".join(sorted({re.sub(r"\.\d+\.", ".*.", n) for n in matrices}))
        raise ValueError(
            f"{key} is on no module that this {chart.model_type} chart knows; known: {known}. (A state dict is wanted "
            "as get_peft_model_state_dict gives it)"
        )
    return rule, target, part


def _read(
    source: str | Path | Mapping[str, Tensor], config: Any
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Tensors and settings of an adapter that can be carried, and what was done to it here before (its file says);
    see :func:`transport_lora` for the errors."""
    past: dict[str, str] = {}
    if isinstance(source, Mapping):
        if config is None:
            raise ValueError("a state dict wants the adapter's config beside it (config=peft_config)")
        tensors, settings = dict(source), dict(config.to_dict() if hasattr(config, "to_dict") else config)
    else:
        folder = Path(source)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                found = (
                    ", ".join(sorted(p.name for p in folder.iterdir()))
                    if folder.is_dir()
                    else "no such folder"
                )
                raise FileNotFoundError(
                    f"no {name} in {folder} (found: {found}); a peft adapter folder is wanted"
                )
        check_safetensors(folder / WEIGHTS)
        try:
            settings = json.loads((folder / CONFIG).read_text())
        except ValueError as e:
            raise ValueError(f"{folder / CONFIG} is no readable JSON: {e}") from e
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            past = json.loads((file.metadata() or {}).get("gaugeport", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    kind = getattr(settings.get("peft_type"), "value", settings.get("peft_type"))
    if kind != "LORA":
        raise ValueError(
            f"an adapter of peft_type {kind!r} is not carried; allowed: LORA (DoRA and rsLoRA included)"
        )
    for option, why in REFUSED.items():
        if settings.get(option):
            raise ValueError(f"{option}={settings[option]!r} is not carried: {why}")
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(REWRITING_INITS):
        raise ValueError(
            f"init_lora_weights={init!r} rewrites the base weights when the adapter is loaded; save it as a plain LoRA "
            "first (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    return tensors, settings, past


def _write(
    tensors: dict[str, Tensor],
    settings: dict[str, Any],
    out: str | Path | None,
    provenance: dict[str, str],
    base_name: str | None,
) -> None:
    if out is None:
        return
    with atomic_folder(Path(out)) as folder:
        settings = {**settings, "base_model_name_or_path": base_name}
        (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True, default=sorted))  # sets
        metadata = {"format": "pt", "gaugeport": json.dumps(provenance)}
        save_file({k: t.contiguous() for k, t in tensors.items()}, folder / WEIGHTS, metadata=metadata)
