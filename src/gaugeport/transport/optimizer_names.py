"""Find which parameter each entry of an optimizer state belongs to, and which optimizer wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gaugeport.transport.optimizer_rules import infer_optimizer, rule_for

MAX_NAMES_SHOWN = 6
"""How many names an error message shows."""


def names_by_index(
    state: Mapping[str, Any],
    model: nn.Module,
    names: Sequence[str] | None,
    default: Sequence[str] | None = None,
) -> dict[int, str]:
    """Name the parameter that each index of an optimizer state stands for.

    The names come from ``names``, else from the state's own ``param_names``, else from ``default``, else (a
    state with one group) from the order of ``model.named_parameters()``.

    Args:
        state: The ``torch.optim`` state dict.
        model: The model that was trained.
        names: The parameter names in the optimizer's order, if the caller knows them.
        default: The names to use if neither ``names`` nor the state tells.

    Returns:
        The parameter name of each index.

    Raises:
        ValueError: If the order cannot be known (several groups without names), if ``names`` and the state
            disagree, or if the names do not fit the model and the state.
    """
    parameters = dict(model.named_parameters())
    groups = state["param_groups"]
    indices = [i for group in groups for i in group["params"]]
    # 1) find the names
    if groups and all("param_names" in group for group in groups):
        own_names = [n for group in groups for n in group["param_names"]]
        if names is not None and list(names) != own_names:
            wrong = [
                f"{given} is {own}" for given, own in zip(names, own_names, strict=False) if given != own
            ]
            raise ValueError(
                "names= and the state's own param_names disagree: "
                f"{shorten(wrong) or 'another number of names'}"
            )
        names = own_names
    names = names if names is not None else default
    if names is None:
        if len(groups) != 1:
            raise ValueError(
                f"the state has {len(groups)} param_groups and no param_names, so the order of its "
                "parameters is not known; pass names= in the optimizer's order (for Trainer's: "
                "trainer_names(model) of gaugeport.transport.optimizer_checkpoint)"
            )
        trained = [n for n, p in parameters.items() if p.requires_grad]
        names = trained if len(trained) == len(indices) else list(parameters)
    # 2) check that they fit
    unknown = [n for n in names if n not in parameters]
    if unknown:
        raise ValueError(
            f"the model has no parameters {shorten(unknown)}; it has {shorten(list(parameters))}"
        )
    repeated = sorted({n for n in names if list(names).count(n) > 1})
    if repeated or len(set(indices)) != len(indices):
        raise ValueError(
            f"a parameter is named or numbered twice: {shorten(repeated) if repeated else indices}"
        )
    if len(names) != len(indices):
        raise ValueError(
            f"expected {len(names)} parameters ({shorten(list(names))}), but the optimizer holds "
            f"{len(indices)}: some are missing or frozen. Pass model= with the same parameters frozen "
            "(requires_grad) as in the run, or names="
        )
    unlisted = sorted(set(state["state"]) - set(indices))
    if unlisted:
        raise ValueError(f"the state holds parameters {unlisted[:8]}, which are in none of its param_groups")
    return dict(zip(indices, names, strict=True))


def optimizers_by_index(
    state: Mapping[str, Any], named: Mapping[int, str], model: nn.Module, optimizer: str | None
) -> dict[int, str]:
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
    optimizers: dict[int, str] = {}
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
