"""Check what must hold before an optimizer state is moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, carries_adapters
from gaugeport.groups import Element, Orthogonal, contains
from gaugeport.transport.axis import DTYPES_16_BIT
from gaugeport.transport.optimizer_names import Index, shorten
from gaugeport.transport.optimizer_rules import OPTIMIZERS, state_shapes

ADAPTER_ADVICE = "the chart does not know LoRA factors: move them with transport_lora, or merge them first"

FLATTENED_KEY_WORDS = (
    "flat",
    "partition",
    "base_optimizer_state",
    "optimizer_state_dict",
    "zero_stage",
    "ds_",
)
"""Words in the keys that FSDP and DeepSpeed write; both lay several parameters into one tensor."""

QUANTIZED_KEY_WORDS = ("qmap", "absmax", "codebook", "quant_map")
"""Words in the keys that 8-bit optimizers write."""


def refuse_adapters(model: nn.Module) -> None:
    """Raise ``ValueError`` for a model with PEFT adapters."""
    if carries_adapters(model):
        raise ValueError(f"{type(model).__name__} carries adapters; {ADAPTER_ADVICE}")


def refuse_dropout(model: nn.Module) -> None:
    """Raise ``ValueError`` for a dropout probability above 0.

    Dropout masks are drawn by coordinate and do not move along. The probabilities are read off the modules. A
    config also lists dropouts of heads that the model does not have.
    """
    active = []
    for name, module in model.named_modules():
        rates = {k: v for k, v in vars(module).items() if "dropout" in k and isinstance(v, int | float)}
        rates |= {"p": module.p} if isinstance(module, nn.modules.dropout._DropoutNd) else {}
        active += [f"{name}.{k}={v:g}" for k, v in rates.items() if v > 0]
    if active:
        raise ValueError(
            f"dropout is on ({shorten(active)}): its masks do not move with the coordinates, so the resumed "
            "run would leave the reference run. Set it to 0 in the model's config, or pass "
            "allow_dropout=True for a mere restart"
        )


def refuse_half(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for parameters or states of 16 bits."""
    in_16_bits = [f"{name} ({p.dtype})" for name, p in model.named_parameters() if p.dtype in DTYPES_16_BIT]
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.dtype in DTYPES_16_BIT:
                in_16_bits.append(f"{key} of parameter {index} ({value.dtype})")
    if in_16_bits:
        raise ValueError(
            f"16-bit parameters or states: {shorten(in_16_bits)}. They move exactly, but a run resumed in 16 "
            "bits rounds every sum, which depends on its order: only sign changes are sure to stay in step "
            "with the reference. Resume from float32 (Trainer's bf16=True keeps it), or pass allow_half=True"
        )


def check_layout(state: Any) -> None:
    """Check that a state is one that can be moved.

    Args:
        state: What claims to be the state dict of an optimizer.

    Raises:
        ValueError: Unless it holds whole plain tensors, keyed by numbers as in ``torch.optim``, or by the
            names of parameters as in ``torch.distributed.checkpoint.state_dict``.
    """
    keys = set(state) if isinstance(state, Mapping) else set()
    if keys != {"state", "param_groups"}:
        given = shorten(sorted(map(str, keys))) or type(state).__name__
        if any(str(key).startswith("state.") for key in keys):
            kind = "flattened (flatten_optimizer_state_dict=True); save it without that option"
        elif _flattened(keys):
            kind = "flattened or sharded by FSDP or DeepSpeed"
        else:
            kind = "not a torch.optim state dict"
        raise ValueError(f"the optimizer state is {kind}: expected keys state and param_groups, got {given}")
    _check_containers(state)
    indices = [*state["state"], *(i for group in state["param_groups"] for i in group["params"])]
    flattened = [str(i) for i in indices if isinstance(i, str) and "flat_param" in i]
    mixed = len({type(i) for i in indices}) > 1
    entry_keys = {key for entries in state["state"].values() for key in entries}
    if flattened or mixed or _flattened(entry_keys):
        got = flattened or ([str(i) for i in indices] if mixed else sorted(entry_keys))
        raise ValueError(
            "the optimizer state is flattened or sharded, as FSDP or DeepSpeed write it: expected whole "
            "tensors, numbered as torch.optim does, or named as get_optimizer_state_dict does with "
            f"full_state_dict=True; got {shorten(got)}"
        )
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                _check_plain_tensor(value, key, index)


def _check_containers(state: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless a state's dicts and lists are nested as in ``torch.optim``."""
    states, groups = state["state"], state["param_groups"]
    wrong = None
    if not isinstance(states, Mapping):
        wrong = f"state is a {type(states).__name__}"
    elif not isinstance(groups, list | tuple):
        wrong = f"param_groups is a {type(groups).__name__}"
    else:
        for index, entries in states.items():
            if type(index) not in (int, str):
                wrong = f"a parameter is numbered {index!r}"
            elif not isinstance(entries, Mapping) or not all(isinstance(key, str) for key in entries):
                wrong = f"the state of parameter {index} is no dict of named values"
        for group in groups:
            if not isinstance(group, Mapping) or not all(isinstance(key, str) for key in group):
                wrong = "a param_group is no dict of named options"
            elif not isinstance(group.get("params"), list | tuple):
                wrong = "a param_group has no list params"
            elif any(type(i) not in (int, str) for i in group["params"]):
                wrong = f"a param_group lists {group['params']!r:.60}"
            elif not isinstance(names := group.get("param_names", []), list | tuple) or not all(
                isinstance(n, str) for n in names
            ):
                wrong = "param_names is no list of names"
    if wrong is not None:
        raise ValueError(f"the optimizer state is not a torch.optim state dict: {wrong}")


def _check_plain_tensor(value: Tensor, key: str, index: Index) -> None:
    if type(value) is not Tensor and not isinstance(value, nn.Parameter):
        raise ValueError(
            f"{key} of parameter {index}: expected a plain tensor, got a {type(value).__name__} (sharded or "
            "quantized)"
        )
    if value.is_meta or value.layout != torch.strided:
        raise ValueError(
            f"{key} of parameter {index}: expected a plain tensor, got {value.layout} on {value.device}"
        )
    if (value.dim() and not value.is_floating_point()) or any(word in key for word in QUANTIZED_KEY_WORDS):
        raise ValueError(
            f"{key} of parameter {index} is {value.dtype}: an 8-bit optimizer state, quantized in blocks "
            "that no permutation keeps. Resume it once with a 32-bit optimizer, or dequantize it first"
        )


def _flattened(keys: set[Any]) -> bool:
    return any(word in str(key) for key in keys for word in FLATTENED_KEY_WORDS)


def check_states(
    state: Mapping[str, Any], named: Mapping[Index, str], model: nn.Module, optimizers: Mapping[Index, str]
) -> None:
    """Check that the states fit their parameters.

    Args:
        state: The ``torch.optim`` state dict.
        named: The parameter name of each index.
        model: The model that was trained.
        optimizers: The optimizer of each index.

    Raises:
        ValueError: If a state has another shape than its parameter allows, or a trained parameter has no
            state although others have one.
    """
    parameters = dict(model.named_parameters())
    wrong = []
    for index, entries in state["state"].items():
        p = parameters[named[index]]
        for key, value in entries.items():
            allowed = state_shapes(OPTIMIZERS[optimizers[index]].keys[key], tuple(p.shape))
            if isinstance(value, Tensor) and allowed and tuple(value.shape) not in allowed:
                wrong.append(
                    f"{key} of {named[index]}: expected shape {allowed[0]}, got {tuple(value.shape)}"
                )
    if wrong:
        raise ValueError(
            f"the states do not fit the named parameters: {shorten(wrong, 4)}. They are in another order "
            "than expected or belong to another model; pass names= in the optimizer's order"
        )
    stepped = {optimizers[i] for i, entries in state["state"].items() if entries}
    missing = [
        name
        for i, name in named.items()
        if optimizers[i] in stepped and parameters[name].requires_grad and not state["state"].get(i)
    ]
    if missing:
        raise ValueError(
            f"trained parameters without a state, although others have one: {shorten(missing)}. The state is "
            "incomplete; if they were frozen in the run, freeze them on model= too"
        )


def check_covariance(g: Element, chart: Chart, model: nn.Module, optimizers: set[str]) -> None:
    """Check that the updates of all optimizers are covariant under a gauge.

    Args:
        g: The gauge.
        chart: The chart of the model.
        model: The model that was trained.
        optimizers: The names of the optimizers that wrote the state.

    Raises:
        ValueError: If an optimizer's group does not contain ``g``, or if ``g`` is a rotation and a norm gain
            is trainable.
    """
    for name in sorted(optimizers):
        rule = OPTIMIZERS[name]
        if not contains(rule.group, g):
            raise ValueError(
                f"{name} is covariant under {rule.group!r} and its subgroups only, got a gauge of group "
                f"{g.group!r}: {rule.reason}"
            )
    parameters = dict(model.named_parameters())
    gains = [n for n in chart.names("gain") if parameters[n].requires_grad]
    if isinstance(g, Orthogonal) and gains:
        raise ValueError(
            f"a rotation (group {g.group!r}) moves an optimizer's state only if no norm gain is trained, "
            f"since a gain's gradient belongs to single coordinates; these are trainable: {shorten(gains)}. "
            "Freeze them (requires_grad_(False)) and leave them out of every optimizer, or use a signed "
            "permutation"
        )


def copy_requires_grad(model: nn.Module, trained: nn.Module) -> None:
    """Copy ``requires_grad`` to the parameters of a model from another of the same architecture.

    Args:
        model: The model to change.
        trained: The model whose flags say what was trained.

    Raises:
        ValueError: If names or shapes of their parameters differ.
    """
    parameters = dict(model.named_parameters())
    trained_parameters = dict(trained.named_parameters())
    differing = sorted(set(parameters) ^ set(trained_parameters))
    common = [n for n in parameters if n in trained_parameters]
    differing += [n for n in common if parameters[n].shape != trained_parameters[n].shape]
    if differing:
        raise ValueError(f"model= and the checkpoint's model differ in {shorten(differing)}")
    for name, p in parameters.items():
        p.requires_grad_(trained_parameters[name].requires_grad)
