"""Declare what each optimizer keeps, how that moves, and under which group its update is covariant.

An update rule U is covariant under a group if U(g·θ, g·gradient, g·state) = g·U(θ, gradient, state) for each
of its elements g: then a run resumed from moved weights *and* moved state is the moved run. The gradient of a
moved function is the moved gradient (g is orthogonal), so covariance is a property of the optimizer alone.
There are two cases:

* Updates entry by entry and odd in the gradient (Adam, Lion, Adafactor, clipping by value) are covariant
  under exactly the signed permutations: a rotation mixes entries before the square, the sign or the root is
  taken.
* Updates that are linear in the gradient (SGD) or a matrix polynomial of it (Muon) are covariant under every
  rotation too, but only if no norm gain is trained. A gain multiplies coordinates one by one; in rotated
  coordinates its gradient is not a permutation of the old one.

The chart says which elements keep the *function*; both conditions have to hold. All of this is algebra. An
update whose size does not depend on the gradient's (Lion's sign, Adafactor's quotient) turns rounding into
steps where a gradient is exactly 0, such as that of a key bias without a rotary embedding after it (GPT-2; in
part GPT-NeoX). There a run drifts from every other run of the same function, moved or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["vector", "gain", "row", "col", "none"]
"""How an entry of a state moves. ``vector``: as its parameter. ``gain``: along the parameter's axes, permuted
only. ``row``, ``col``: likewise, with the last or the last but one axis averaged away. ``none``: not at
all."""


@dataclass(frozen=True)
class OptimizerRule:
    """What is known of one optimizer.

    Attributes:
        group: The largest group its update is covariant under (for a rotation every gain must also be
            frozen).
        keys: The action on each entry of a parameter's state.
        marks: Entries of which at least one is present.
        options: Entries of its param_groups that tell it from others with the same state.
        reason: Why ``group`` is what it is.
    """

    group: str
    keys: Mapping[str, Action] = field(hash=False)
    marks: frozenset[str]
    options: frozenset[str]
    reason: str


_ADAM = OptimizerRule(
    group="signed_permutation",
    keys={"step": "none", "exp_avg": "vector", "exp_avg_sq": "gain", "max_exp_avg_sq": "gain"},
    marks=frozenset({"exp_avg_sq"}),
    options=frozenset({"betas", "amsgrad"}),
    reason=(
        "each entry of the first moment is divided by the root of its own second moment; squares drop signs "
        "and follow permutations, but the squares of rotated gradients cannot be computed from the squares"
    ),
)

OPTIMIZERS: dict[str, OptimizerRule] = {
    "adam": _ADAM,
    "adamw": _ADAM,
    "sgd": OptimizerRule(
        group="orthogonal",
        keys={"momentum_buffer": "vector"},
        marks=frozenset({"momentum_buffer"}),
        options=frozenset({"momentum", "dampening"}),
        reason="the update (momentum, Nesterov, weight decay) is linear in gradients and weights",
    ),
    "lion": OptimizerRule(
        group="signed_permutation",
        keys={"step": "none", "exp_avg": "vector"},
        marks=frozenset({"exp_avg"}),
        options=frozenset(),
        reason="the update is the sign of each entry, which commutes with signed permutations, not rotations",
    ),
    "adafactor": OptimizerRule(
        group="signed_permutation",
        keys={
            "step": "none",
            **{"row_var": "row", "col_var": "col", "variance": "gain"},  # torch.optim
            **{"exp_avg_sq_row": "row", "exp_avg_sq_col": "col", "exp_avg_sq": "gain"},  # transformers
            "exp_avg": "vector",
            "RMS": "none",
        },
        marks=frozenset({"row_var", "variance", "RMS"}),
        options=frozenset(),
        reason=(
            "each entry of the gradient is divided by the root of a product of row and column means of "
            "squares. These means are permuted along the axis that is left (the parameter's RMS and the "
            "clipping use norms only), and the squares of rotated gradients cannot be computed from them"
        ),
    ),
    "muon": OptimizerRule(
        group="orthogonal",
        keys={"momentum_buffer": "vector"},
        marks=frozenset({"momentum_buffer"}),
        options=frozenset({"momentum", "ns_steps"}),
        reason=(
            "Newton-Schulz is an odd matrix polynomial, p(G Qᵀ) = p(G) Qᵀ and p(Q G) = Q p(G), up to "
            "rounding in bfloat16, and the learning rate depends on the shape; the Adam that usually trains "
            "embeddings and gains beside it has a state of its own and allows signed permutations only"
        ),
    ),
}
"""The optimizers whose states can be moved."""

MATRIX_ONLY_OPTIMIZERS = ("muon",)


def state_axes(action: Action, axes: Sequence[str], dims: int) -> tuple[str, ...]:
    """Name each axis of an entry of a state.

    Torch keeps the averaged axis of a row or column mean with length 1; transformers leaves it out.

    Args:
        action: How the entry moves.
        axes: The axes of its parameter, as the chart names them.
        dims: The number of axes of the entry.

    Returns:
        ``vector``, ``gain`` or ``none`` for each axis. Magnitudes have no ``vector`` axis.
    """
    if action == "none":
        return ("none",) * dims
    if action == "vector":
        return tuple(axes)
    unsigned = ["none" if kind == "none" else "gain" for kind in axes]
    if action == "gain":
        return tuple(unsigned)
    averaged = len(axes) - (1 if action == "row" else 2)
    if dims == len(axes):
        return tuple("none" if i == averaged else kind for i, kind in enumerate(unsigned))
    return tuple(kind for i, kind in enumerate(unsigned) if i != averaged)


def state_shapes(action: Action, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes that an entry may have, for a parameter of ``shape``; none if all are allowed."""
    if action == "none":
        return []
    if action in ("vector", "gain"):
        return [shape]
    averaged = len(shape) - (1 if action == "row" else 2)
    if averaged < 0 or len(shape) < 2:
        return [()]  # a vector has no rows and columns
    return [(*shape[:averaged], 1, *shape[averaged + 1 :]), (*shape[:averaged], *shape[averaged + 1 :])]


def rule_for(name: str, keys: Iterable[str]) -> OptimizerRule:
    """Return the rule of an optimizer.

    Args:
        name: The optimizer's name.
        keys: The keys of its state.

    Returns:
        The rule.

    Raises:
        ValueError: If there is no such optimizer, or if it does not keep such keys.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"no rule for optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}")
    extra = sorted(set(keys) - set(OPTIMIZERS[name].keys))
    if extra:
        raise ValueError(
            f"the state holds {', '.join(extra)}, which {name} does not keep; "
            f"its keys: {', '.join(OPTIMIZERS[name].keys)}"
        )
    return OPTIMIZERS[name]


def infer_optimizer(options: Mapping[str, Any], keys: Iterable[str], dims: Iterable[int]) -> str:
    """Infer the optimizer of a param_group from the keys of its states and, if several fit, its options.

    Args:
        options: The param_group.
        keys: The keys of its states.
        dims: The numbers of axes of its parameters (Muon takes matrices only).

    Returns:
        The name of a rule in ``OPTIMIZERS``.

    Raises:
        ValueError: If no optimizer fits, or if several fit that move differently.
    """
    state_keys = set(keys)
    # 1) by the keys
    fits = [
        name
        for name, rule in OPTIMIZERS.items()
        if state_keys <= set(rule.keys) and (not state_keys or state_keys & rule.marks)
    ]
    if not fits:
        raise ValueError(
            f"no rule for an optimizer whose state holds {', '.join(sorted(state_keys))}; known: "
            + "; ".join(f"{n} ({', '.join(r.keys)})" for n, r in OPTIMIZERS.items())
        )
    # 2) by the shapes of the parameters
    if set(dims) - {2}:
        fits = [n for n in fits if n not in MATRIX_ONLY_OPTIMIZERS]
    # 3) by the options
    if _differ(fits):
        fits = [n for n in fits if OPTIMIZERS[n].options and OPTIMIZERS[n].options <= set(options)] or fits
    if _differ(fits):
        what = f"a state of {', '.join(sorted(state_keys))}" if state_keys else "an empty state"
        raise ValueError(
            f"{what} may be that of {' or '.join(fits)}, and the options in its param_groups do not tell; "
            f"name it, for example optimizer={fits[0]!r}"
        )
    return fits[0]


def _differ(names: list[str]) -> bool:
    return any(OPTIMIZERS[n] is not OPTIMIZERS[names[0]] for n in names)
