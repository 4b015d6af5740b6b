"""What each optimizer keeps per parameter, how that moves under a gauge, and under which group its update is covariant.

An update rule U is covariant under a group when U(g·θ, g·gradient, g·state) = g·U(θ, gradient, state) for each of its
elements: then a run resumed from moved weights *and* moved state is the moved run. The gradient of a moved function is
the moved gradient (g is orthogonal), so this is a statement about the optimizer alone. Two cases cover all of them:

* entry by entry and odd in the gradient (Adam, Lion, Adafactor, value clipping): exactly the signed permutations, for a
  rotation mixes entries before the square, the sign or the root is taken;
* linear in the gradient (SGD), or a matrix polynomial of it (Muon): every rotation too, but only where no norm gain is
  trained. A gain multiplies coordinates one by one; in rotated coordinates its gradient is another vector than anything
  that permuting gives.

Which elements leave the *function* alone is the chart's business; both have to hold. All of this is algebra: an update
of the size of the learning rate whatever the gradient's size (Lion's sign, Adafactor's quotient) turns rounding into
steps where a gradient is exactly 0, as that of a key bias is that no rotary embedding follows (GPT-2; in part GPT-NeoX).
There a run leaves any other of the same function, moved or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["vector", "gain", "row", "col", "none"]
"""``vector``: as its parameter. ``gain``: the parameter's axes, permuted only. ``row``, ``col``: likewise, with the last
or the last but one axis averaged away. ``none``: a number that no gauge touches."""


@dataclass(frozen=True)
class Rule:
    """One optimizer.

    ``group`` is the largest group its update is covariant under (a rotation moreover wants every gain frozen), ``keys``
    the action on each entry of a parameter's state, ``marks`` entries of which at least one is there, ``options``
    entries of its param_groups by which it is told from others with the same state, and ``reason`` the why.
    """

    group: str
    keys: Mapping[str, Action] = field(hash=False)
    marks: frozenset[str]
    options: frozenset[str]
    reason: str


_ADAM = Rule(
    group="signed_permutation",
    keys={"step": "none", "exp_avg": "vector", "exp_avg_sq": "gain", "max_exp_avg_sq": "gain"},
    marks=frozenset({"exp_avg_sq"}),
    options=frozenset({"betas", "amsgrad"}),
    reason=(
        "each entry of the first moment is divided by the root of its own second moment; squares forget signs and "
        "follow permutations, but the squares of rotated gradients are no function of the squares"
    ),
)

OPTIMIZERS: dict[str, Rule] = {
    "adam": _ADAM,
    "adamw": _ADAM,
    "sgd": Rule(
        group="orthogonal",
        keys={"momentum_buffer": "vector"},
        marks=frozenset({"momentum_buffer"}),
        options=frozenset({"momentum", "dampening"}),
        reason="the update (momentum, Nesterov, weight decay) is linear in gradients and weights",
    ),
    "lion": Rule(
        group="signed_permutation",
        keys={"step": "none", "exp_avg": "vector"},
        marks=frozenset({"exp_avg"}),
        options=frozenset(),
        reason="the update is the sign of each entry, which is odd and goes with permutations, not with rotations",
    ),
    "adafactor": Rule(
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
            "each entry of the gradient is divided by the root of a product of row and column means of squares: they "
            "are permuted along the axis that is left (the parameter's RMS and the clipping see norms only), and the "
            "squares of rotated gradients are no function of them"
        ),
    ),
    "muon": Rule(
        group="orthogonal",
        keys={"momentum_buffer": "vector"},
        marks=frozenset({"momentum_buffer"}),
        options=frozenset({"momentum", "ns_steps"}),
        reason=(
            "Newton-Schulz is an odd matrix polynomial, p(G Qᵀ) = p(G) Qᵀ and p(Q G) = Q p(G), up to the bfloat16 it is "
            "computed in, and the learning rate depends on the shape; the Adam that usually trains embeddings and gains "
            "beside it has a state of its own and allows signed permutations only"
        ),
    ),
}
"""The optimizers whose states can be moved."""

_MATRIX_ONLY = ("muon",)


def state_axes(action: Action, axes: Sequence[str], dims: int) -> tuple[str, ...]:
    """What each of the ``dims`` axes of a state entry is, from those of its parameter: ``vector``, ``gain``, ``none``.

    Every axis of a magnitude is at most a ``gain``. Row means are kept as an axis of length 1 by torch.optim and left
    out by transformers.
    """
    if action == "none":
        return ("none",) * dims
    if action == "vector":
        return tuple(axes)
    kept = ["none" if kind == "none" else "gain" for kind in axes]
    if action == "gain":
        return tuple(kept)
    averaged = len(axes) - (1 if action == "row" else 2)
    if dims == len(axes):
        return tuple("none" if i == averaged else kind for i, kind in enumerate(kept))
    return tuple(kind for i, kind in enumerate(kept) if i != averaged)


def state_shapes(action: Action, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes that a state entry of a parameter of ``shape`` may have; empty where any will do."""
    if action == "none":
        return []
    if action in ("vector", "gain"):
        return [shape]
    averaged = len(shape) - (1 if action == "row" else 2)
    if averaged < 0 or len(shape) < 2:
        return [()]  # a vector has no rows and columns
    return [(*shape[:averaged], 1, *shape[averaged + 1 :]), (*shape[:averaged], *shape[averaged + 1 :])]


def rule_for(name: str, keys: Iterable[str]) -> Rule:
    """The rule of a named optimizer. Raises ``ValueError`` for an unknown name and for state keys it does not have."""
    if name not in OPTIMIZERS:
        raise ValueError(f"no rule for optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}")
    extra = sorted(set(keys) - set(OPTIMIZERS[name].keys))
    if extra:
        raise ValueError(
            f"the state holds {', '.join(extra)}, which {name} does not keep; its keys: {', '.join(OPTIMIZERS[name].keys)}"
        )
    return OPTIMIZERS[name]


def infer(options: Mapping[str, Any], keys: Iterable[str], dims: Iterable[int]) -> str:
    """The optimizer of one param_group, from what its states hold and, where that leaves several, from its options.

    ``dims`` are the numbers of axes of its parameters (Muon takes matrices only). Raises ``ValueError`` where nothing
    fits, and where several fit that differ.
    """
    held, axes = set(keys), set(dims)
    fits = [n for n, r in OPTIMIZERS.items() if held <= set(r.keys) and (not held or held & r.marks)]
    if not fits:
        raise ValueError(
            f"no rule for an optimizer whose state holds {', '.join(sorted(held))}; known: "
            + "; ".join(f"{n} ({', '.join(r.keys)})" for n, r in OPTIMIZERS.items())
        )
    if axes - {2}:
        fits = [n for n in fits if n not in _MATRIX_ONLY]
    if _differ(fits):
        fits = [n for n in fits if OPTIMIZERS[n].options and OPTIMIZERS[n].options <= set(options)] or fits
    if _differ(fits):
        told = f"a state of {', '.join(sorted(held))}" if held else "an empty state"
        raise ValueError(
            f"{told} may be that of {' or '.join(fits)}, and the options in its param_groups do not tell; "
            f"name it: optimizer={fits[0]!r}"
        )
    return fits[0]


def _differ(names: list[str]) -> bool:
    return any(OPTIMIZERS[n] is not OPTIMIZERS[names[0]] for n in names)
