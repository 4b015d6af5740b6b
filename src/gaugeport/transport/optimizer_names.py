"""Find which parameter each entry of an optimizer state belongs to, and which optimizer wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gaugeport.transport.optimizer_rules import infer_optimizer, rule_for

MAX_NAMES_SHOWN = 6
"""How many names an error message shows."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Modules that torch.compile, FSDP and activation checkpointing put around others, as names show them."""

Index = int | str
"""What a state is keyed by: a number, or (torch's full state dicts) the name of a parameter."""


def without_wrappers(name: str) -> str:
    """Return a parameter's name without what torch.compile, FSDP, checkpointing and DDP put into it."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile's and DDP's wrappers."""
    while isinstance(inner := getattr(model, "_orig_mod", None) or _data_parallel(model), nn.Module):
        model = inner
    return model


def _data_parallel(model: nn.Module) -> Any:
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else None


def first_names(model: nn.Module) -> dict[str, str]:
    """Return the first name of each parameter by each of its names. Tied parameters have several."""
    first = {id(p): name for name, p in model.named_parameters()}
    return {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def names_by_index(
    state: Mapping[str, Any],
    model: nn.Module,
    names: Sequence[str] | None,
    default: Sequence[str] | None = None,
) -> dict[Index, str]:
    """Name the parameter that each index of an optimizer state stands for.

    If the state is keyed by names, these are used. Otherwise the names come from ``names``, else from the
    state's own ``param_names``, else from ``default``, else (a state with one group) from the order of
    ``model.named_parameters()``. Names are compared without the prefixes of wrappers.

    Args:
        state: The state dict, of ``torch.optim`` or of ``torch.distributed.checkpoint.state_dict``.
        model: The model that was trained.
        names: The parameter names in the optimizer's order, if the caller knows them.
        default: The names to use if neither ``names`` nor the state tells.

    Returns:
        The parameter name of each index.

    Raises:
        ValueError: If the order cannot be known (several groups without names), if ``names`` and the state
            disagree, or if the names do not fit the model and the state.
    """
    first = first_names(model)
    indices = [i for group in state["param_groups"] for i in group["params"]]
    given = _names(state, model, names, default, indices)
    clean = [without_wrappers(n) for n in given]
    unknown = [n for n, c in zip(given, clean, strict=True) if c not in first]
    if unknown:
        has = shorten([*dict.fromkeys(first.values())])
        raise ValueError(f"the model has no parameters {shorten(unknown)}; it has {has}")
    known = [first[n] for n in clean]
    repeated = sorted({n for n in known if known.count(n) > 1})
    if repeated or len(set(indices)) != len(indices):
        raise ValueError(
            f"a parameter is named or numbered twice: {shorten(repeated) if repeated else indices}"
        )
    if len(known) != len(indices):
        raise ValueError(
            f"expected {len(known)} parameters ({shorten(known)}), but the optimizer holds "
            f"{len(indices)}: some are missing or frozen. Pass model= with the same parameters frozen "
            "(requires_grad) as in the run, or names="
        )
    unlisted = [i for i in state["state"] if i not in set(indices)]
    if unlisted:
        raise ValueError(f"the state holds parameters {unlisted[:8]}, which are in none of its param_groups")
    return dict(zip(indices, known, strict=True))


def _names(
    state: Mapping[str, Any],
    model: nn.Module,
    names: Sequence[str] | None,
    default: Sequence[str] | None,
    indices: Sequence[Index],
) -> Sequence[str]:
    """Return the name of each index, from the first source that tells."""
    groups = state["param_groups"]
    own: list[str] | None = None
    if indices and all(isinstance(i, str) for i in indices):
        own = [str(i) for i in indices]
    elif groups and all("param_names" in group for group in groups):
        own = [n for group in groups for n in group["param_names"]]
    if own is not None:
        pairs = list(zip(names or own, own, strict=False))
        wrong = [f"{n} is {o}" for n, o in pairs if without_wrappers(n) != without_wrappers(o)]
        if wrong or (names is not None and len(names) != len(own)):
            raise ValueError(
                "names= and the state's own param_names disagree: "
                f"{shorten(wrong) or 'another number of names'}"
            )
        return own
    if names is not None or default is not None:
        return names if names is not None else default or ()
    if len(groups) != 1:
        raise ValueError(
            f"the state has {len(groups)} param_groups and no param_names, so the order of its "
            "parameters is not known; pass names= in the optimizer's order (for Trainer's: "
            "trainer_names(model) of gaugeport.transport.optimizer_checkpoint)"
        )
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    return trained if len(trained) == len(indices) else [n for n, _ in model.named_parameters()]


def optimizers_by_index(
    state: Mapping[str, Any], named: Mapping[Index, str], model: nn.Module, optimizer: str | None
) -> dict[Index, str]:
    """Name the optimizer that wrote each entry of a state, one for each param_group.

    Groups may differ: one state may join Muon and Adam.

    Args:
        state: The ``torch.optim`` state dict.
        named: The parameter name of each index.
        model: The model that was trained.
        optimizer: The optimizer's name, if the caller knows it.

    Returns:
        A name listed in ``optimizer_rules.OPTIMIZERS`` for each index.

    Raises:
        ValueError: If the optimizer is unknown, does not keep such a state, or cannot be told from others.
    """
    parameters = dict(model.named_parameters())
    optimizers: dict[Index, str] = {}
    for group in state["param_groups"]:
        entries_by_index = {i: state["state"].get(i, {}) for i in group["params"]}
        keys = {key for entries in entries_by_index.values() for key in entries}
        if optimizer is not None:
            rule_for(optimizer, keys)
        if group["params"]:
            dims = [parameters[named[i]].dim() for i in entries_by_index]
            name = optimizer or infer_optimizer(group, keys, dims)
            optimizers |= dict.fromkeys(group["params"], name)
    return optimizers


def shorten(names: Sequence[str], limit: int = MAX_NAMES_SHOWN) -> str:
    """Join the first ``limit`` names, and say how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
