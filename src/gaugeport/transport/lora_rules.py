"""Declare which axes of a peft LoRA adapter are residual coordinates, and which options cannot be moved.

In peft's files ``lora_A`` is [r, in] and ``lora_B`` is [out, r], for Linear and Conv1D alike; an embedding
has ``lora_embedding_A`` [r, tokens] and ``lora_embedding_B`` [d, r]. So a module that reads the stream has it
on the last axis of A, and one that writes has it on the first axis of B. Full tensors (``modules_to_save``,
trained biases) follow the chart's rule for their name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gaugeport.charts.chart import Chart
from gaugeport.charts.rules import Rule

KEY_PREFIX = "base_model.model."

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
"""Stream axes of an adapter's tensors, by what its module does. All other tensors of a LoRA have none."""

ROLES = {"read": "read", "unembed": "read", "write": "write", "embed": "embed", "position": "embed"}
"""What a module does, by its role in the chart."""

REFUSED_OPTIONS = {
    "use_qalora": "QA-LoRA pools neighbouring input features",
    "use_bdlora": "BD-LoRA is block-diagonal in the features",
    "velora_config": "VeLoRA groups neighbouring features while training",
    "monteclora_config": "MonteCLoRA carries a sampler of its own",
    "kasa_config": "KaSA truncates the base weights when it is loaded",
    "arrow_config": "Arrow routes between several adapters",
    "layer_replication": "replicated layers are not blocks of the chart",
    "target_parameters": "parameters targeted by name have no module whose axes the chart knows",
}
"""Options of a LoRA config that cannot be moved, and why."""

KNOWN_OPTIONS = frozenset(
    """alora_invocation_tokens alpha_pattern auto_mapping base_model_name_or_path bias corda_config
    ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode init_lora_weights
    layers_pattern layers_to_transform loftq_config lora_alpha lora_bias lora_dropout lora_ga_config
    megatron_config megatron_core merge_weights modules_to_save peft_type peft_version qalora_group_size r
    rank_pattern revision runtime_config target_modules task_type trainable_token_indices use_dora use_rslora
    """.split()
) | set(REFUSED_OPTIONS)
"""The options of a LoRA config up to peft 0.21."""

REWRITING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations with which peft rewrites the *base* weights each time the adapter is loaded."""

_ADAPTER_PART = re.compile(
    r"(.+)\.(lora_[AB]\.weight|lora_B\.bias|lora_embedding_[AB]|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)"
)


def rule_of(chart: Chart, key: str) -> tuple[Rule, str, str | None]:
    """Find what a tensor of an adapter belongs to.

    Args:
        chart: The chart of the base model.
        key: The tensor's key, as ``get_peft_model_state_dict`` writes it.

    Returns:
        The chart's rule, the parameter of the base model, and the part of its LoRA (None for a full tensor).

    Raises:
        ValueError: If the chart knows no such module.
    """
    name = key.removeprefix(KEY_PREFIX).replace(".base_layer.", ".")
    match = _ADAPTER_PART.fullmatch(name)
    target, part = (f"{match[1]}.weight", match[2]) if match else (name, None)
    rule = chart.rules.get(target)
    second_name_of_tied = chart.tied and target == f"{chart.family.unembedding}.weight"
    if rule is None and second_name_of_tied:
        rule = next(r for r in chart.family.rules if r.match(target) is not None)
    if rule is None or (part is not None and rule.role not in ROLES):
        matrices = [n.removesuffix(".weight") for n, r in chart.rules.items() if r.role in ROLES]
        known = ", ".join(sorted({re.sub(r"\.\d+\.", ".*.", n) for n in matrices}))
        raise ValueError(
            f"{key} belongs to a module that this {chart.model_type} chart does not know; known: {known}. "
            "(Expected keys as get_peft_model_state_dict writes them)"
        )
    return rule, target, part


def axes_of(chart: Chart, key: str, tensor: Tensor) -> tuple[str, ...]:
    """Name each axis of a tensor of an adapter.

    Args:
        chart: The chart of the base model.
        key: The tensor's key, as ``get_peft_model_state_dict`` writes it.
        tensor: The tensor.

    Returns:
        "vector", "gain" or "none" for each axis.

    Raises:
        ValueError: If the chart knows no such module, or if the shape does not fit.
    """
    rule, _, part = rule_of(chart, key)
    axes: tuple[str, ...] = rule.axes
    if part is not None:
        axes = LORA_AXES[ROLES[rule.role]].get(part, ("none",) * tensor.dim())
    d, shape = chart.width, tuple(tensor.shape)
    if len(axes) != len(shape) or any(k != "none" and n != d for k, n in zip(axes, shape, strict=True)):
        raise ValueError(f"{key} has shape {shape}, expected axes {axes} with every vector and gain axis {d}")
    return axes


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless an adapter's config is that of a LoRA whose options can be moved."""
    kind = getattr(settings.get("peft_type"), "value", settings.get("peft_type"))
    if kind != "LORA":
        raise ValueError(
            f"an adapter of peft_type {kind!r} cannot be moved; allowed: LORA (DoRA and rsLoRA included)"
        )
    for option, why in REFUSED_OPTIONS.items():
        if settings.get(option):
            raise ValueError(f"an adapter with {option}={settings[option]!r} cannot be moved: {why}")
    unknown = [f"{k}={v!r}" for k, v in settings.items() if k not in KNOWN_OPTIONS and _is_set(v)]
    if unknown:
        raise ValueError(
            f"the config sets options that this package does not know: {', '.join(unknown)}. They may change "
            "what the tensors mean: merge the adapter into its model, or take them out if they do not"
        )
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(REWRITING_INITS):
        raise ValueError(
            f"init_lora_weights={init!r} rewrites the base weights when the adapter is loaded; save it as a "
            "plain LoRA first (save_pretrained with path_initial_model_for_weight_conversion)"
        )


def _is_set(value: Any) -> bool:
    """Return whether an unknown option may change what an adapter does.

    Numbers are taken for details of another option, as ``qalora_group_size`` is of ``use_qalora``; everything
    else counts unless it is None, False or empty.
    """
    return value is True or (bool(value) and not isinstance(value, int | float))
