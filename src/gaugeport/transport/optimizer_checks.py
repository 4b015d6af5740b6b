"""What has to hold before an optimizer state is moved; every check names what it found and what is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart
from gaugeport.groups import Element, Orthogonal, contains
from gaugeport.transport.optimizer_rules import OPTIMIZERS, infer, rule_for, state_shapes

ADAPTERS = (
    "LoRA factors are no stream parameters of the chart: move them with transport_lora, or merge them first"
)
FLATTENED = ("flat", "partition", "base_optimizer_state", "optimizer_state_dict", "zero_stage", "ds_")
"""Words in the keys that FSDP and DeepSpeed write, who lay several parameters into one tensor."""
QUANTIZED = ("qmap", "absmax", "codebook", "quant_map")
HALVES = (torch.bfloat16, torch.float16)


def refuse_adapters(model: nn.Module) -> None:
    """Raise ``ValueError`` for a model that carries PEFT adapters."""
    if hasattr(model, "peft_config") or any(".lora_" in name for name, _ in model.named_parameters()):
        raise ValueError(f"{type(model).__name__} carries adapters; {ADAPTERS}")


def refuse_dropout(model: nn.Module) -> None:
    """Raise ``ValueError`` for a dropout probability above 0: its masks are drawn by coordinate and do not move along.

    Read off the modules, not the config, which also lists dropouts of heads the model does not have.
    """
    found = []
    for name, module in model.named_modules():
        rates = {k: v for k, v in vars(module).items() if "dropout" in k and isinstance(v, int | float)}
        rates |= {"p": module.p} if isinstance(module, nn.modules.dropout._DropoutNd) else {}
        found += [f"{name}.{k}={v:g}" for k, v in rates.items() if v > 0]
    if found:
        raise ValueError(
            f"dropout is on ({_some(found)}): its masks do not move with the coordinates, so the resumed run would leave "
            "the reference run. Set it to 0 in the model's config, or pass allow_dropout=True for what is only a restart"
        )


def refuse_half(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for parameters or states of 16 bits."""
    found = [f"{name} ({p.dtype})" for name, p in model.named_parameters() if p.dtype in HALVES]
    found += [
        f"{key} of parameter {index} ({value.dtype})"
        for index, held in state["state"].items()
        for key, value in held.items()
        if isinstance(value, Tensor) and value.dtype in HALVES
    ]
    if found:
        raise ValueError(
            f"16-bit parameters or states: {_some(found)}. They move exactly, but a run resumed in 16 bits rounds every "
            "sum, which depends on its order: only pure sign changes are sure to stay in step with the reference. Resume "
            "from float32 (Trainer's bf16=True keeps it), or pass allow_half=True"
        )


def check_plain(state: Any) -> None:
    """Raise ``ValueError`` unless ``state`` is laid out as ``torch.optim`` does: whole tensors, keyed by integers."""
    keys = set(state) if isinstance(state, Mapping) else set()
    if keys != {"state", "param_groups"}:
        found = ", ".join(sorted(map(str, keys))) or type(state).__name__
        what = (
            "flattened or sharded by FSDP or DeepSpeed" if _flattened(keys) else "no torch.optim state dict"
        )
        raise ValueError(
            f"the optimizer state is {what}: its keys are {found}; wanted state and param_groups"
        )
    named = [i for i in state["state"] if not isinstance(i, int)]
    if named or _flattened({k for held in state["state"].values() for k in held}):
        raise ValueError(
            "the optimizer state is flattened or sharded, as FSDP or DeepSpeed write it: it holds "
            f"{_some([str(k) for k in named] or sorted({k for h in state['state'].values() for k in h}))}; "
            "wanted whole tensors, numbered as torch.optim does"
        )
    for index, held in state["state"].items():
        for key, value in held.items():
            if not isinstance(value, Tensor):
                continue
            if type(value) is not Tensor and not isinstance(value, nn.Parameter):
                raise ValueError(
                    f"{key} of parameter {index} is a {type(value).__name__}, sharded or quantized; wanted a plain tensor"
                )
            if (value.dim() and not value.is_floating_point()) or any(word in key for word in QUANTIZED):
                raise ValueError(
                    f"{key} of parameter {index} is {value.dtype}: an 8-bit optimizer state, quantized in blocks that no "
                    "permutation keeps. Resume it once with a 32-bit optimizer, or dequantize it first"
                )


def _flattened(keys: set[Any]) -> bool:
    return any(word in str(key) for key in keys for word in FLATTENED)


def names_by_index(
    state: Mapping[str, Any],
    model: nn.Module,
    names: Sequence[str] | None,
    default: Sequence[str] | None = None,
) -> dict[int, str]:
    """Index -> parameter name: as in ``names``, else in the state's ``param_names``, else in ``default``.

    Raises ``ValueError`` where none of them tells and there are several groups, where two of them disagree, and where
    they do not fit the model and the state in number or name.
    """
    parameters = dict(model.named_parameters())
    groups = state["param_groups"]
    indices = [i for group in groups for i in group["params"]]
    if groups and all("param_names" in group for group in groups):
        own = [n for group in groups for n in group["param_names"]]
        if names is not None and list(names) != own:
            wrong = [f"{a} is {b}" for a, b in zip(names, own, strict=False) if a != b]
            raise ValueError(
                f"names= and the state's own param_names disagree: {_some(wrong) or 'another number of names'}"
            )
        names = own
    names = names if names is not None else default
    if names is None:
        if len(groups) != 1:
            raise ValueError(
                f"the state has {len(groups)} param_groups and no param_names, so the order of its parameters is not "
                "known; pass names= in the optimizer's order (for Trainer's: trainer_names(model) of gaugeport.transport.optimizer_files)"
            )
        trained = [n for n, p in parameters.items() if p.requires_grad]
        names = trained if len(trained) == len(indices) else list(parameters)
    unknown = [n for n in names if n not in parameters]
    if unknown:
        raise ValueError(f"the model has no parameters {_some(unknown)}; it has {_some(list(parameters))}")
    doubled = sorted({n for n in names if list(names).count(n) > 1})
    if doubled or len(set(indices)) != len(indices):
        raise ValueError(f"a parameter is named or numbered twice: {_some(doubled) if doubled else indices}")
    if len(names) != len(indices):
        raise ValueError(
            f"the optimizer holds {len(indices)} parameters, {len(names)} are expected ({_some(list(names))}): some are "
            "missing or frozen. Pass model= with the same parameters frozen (requires_grad) as in the run, or names="
        )
    stray = sorted(set(state["state"]) - set(indices))
    if stray:
        raise ValueError(f"the state holds parameters {stray[:8]}, which none of its param_groups lists")
    return dict(zip(indices, names, strict=True))


def rules_by_index(
    state: Mapping[str, Any], named: Mapping[int, str], model: nn.Module, optimizer: str | None
) -> dict[int, str]:
    """Index -> name of the optimizer's rule, one for each param_group (one optimizer may join Muon and Adam)."""
    parameters = dict(model.named_parameters())
    rules: dict[int, str] = {}
    for group in state["param_groups"]:
        held = {i: state["state"].get(i, {}) for i in group["params"]}
        keys = {key for entries in held.values() for key in entries}
        if optimizer is not None:
            rule_for(optimizer, keys)
        if group["params"]:
            name = optimizer or infer(group, keys, [parameters[named[i]].dim() for i in held])
            rules |= dict.fromkeys(group["params"], name)
    return rules


def check_states(
    state: Mapping[str, Any], named: Mapping[int, str], model: nn.Module, rules: Mapping[int, str]
) -> None:
    """Raise ``ValueError`` for states of other shapes than their parameters, and for trained parameters without one."""
    parameters = dict(model.named_parameters())
    wrong = []
    for index, held in state["state"].items():
        p = parameters[named[index]]
        for key, value in held.items():
            allowed = state_shapes(OPTIMIZERS[rules[index]].keys[key], tuple(p.shape))
            if isinstance(value, Tensor) and allowed and tuple(value.shape) not in allowed:
                wrong.append(f"{key} of {named[index]} has shape {tuple(value.shape)}, wanted {allowed[0]}")
    if wrong:
        raise ValueError(
            f"the states do not fit the named parameters: {_some(wrong, 4)}. They are in another order than "
            "expected or belong to another model; pass names= in the optimizer's order"
        )
    stepped = {rules[i] for i, held in state["state"].items() if held}
    missing = [
        n
        for i, n in named.items()
        if rules[i] in stepped and parameters[n].requires_grad and not state["state"].get(i)
    ]
    if missing:
        raise ValueError(
            f"trained parameters without a state, although others have one: {_some(missing)}. The state is incomplete; "
            "where they were frozen in the run, freeze them on model= too"
        )


def check_covariance(g: Element, chart: Chart, model: nn.Module, optimizers: set[str]) -> None:
    """Raise ``ValueError`` where ``g`` is not in the group under which the optimizers' updates are covariant."""
    for name in sorted(optimizers):
        rule = OPTIMIZERS[name]
        if not contains(rule.group, g):
            raise ValueError(
                f"{name} is covariant under {rule.group!r} and its subgroups only, found a gauge of group {g.group!r}: "
                f"{rule.reason}"
            )
    parameters = dict(model.named_parameters())
    gains = [n for n in chart.names("gain") if parameters[n].requires_grad]
    if isinstance(g, Orthogonal) and gains:
        raise ValueError(
            f"a rotation (found group {g.group!r}) moves an optimizer's state only where no norm gain is trained, since "
            f"a gain's gradient belongs to single coordinates; these are trainable: {_some(gains)}. Freeze them "
            "(requires_grad_(False)) and leave them out of every optimizer, or use a signed permutation"
        )


def take_flags(model: nn.Module, trained: nn.Module) -> None:
    """Give the parameters of ``model`` the ``requires_grad`` of those of ``trained``.

    Raises ``ValueError`` where their names or shapes differ.
    """
    theirs = dict(trained.named_parameters())
    mine = dict(model.named_parameters())
    differ = sorted(set(mine) ^ set(theirs))
    differ += [n for n in mine if n in theirs and mine[n].shape != theirs[n].shape]
    if differ:
        raise ValueError(f"model= and the checkpoint's model differ in {_some(differ)}")
    for name, p in mine.items():
        p.requires_grad_(theirs[name].requires_grad)


def _some(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
