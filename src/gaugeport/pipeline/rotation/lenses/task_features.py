"""Compute the task features of paper B's constructive algorithm at every position of a string (section 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gaugeport.models.dyck import MAX_DEPTH
from gaugeport.pipeline.rotation.toy.strings import BOS, CLOSE, EOS, FAMILIES, OPEN, is_close, is_open

KINDS = {
    "token": ("is_open", "is_close", "family_0", "family_1", "family_2", "is_special"),
    "count": ("depth", *(f"depth_{k}" for k in range(MAX_DEPTH + 1)), "raw_average_depth"),
    "match": (
        *(f"top_{f}" for f in range(FAMILIES)),
        *(f"met_{f}" for f in range(FAMILIES)),
        "own_balance",
        "local_invalid",
    ),
    "validity": ("sticky_invalid", "invalid_density"),
    "position": ("linear_counter", "inverse_counter"),
}
"""Kind of role -> its features."""

KIND = {feature: kind for kind, features in KINDS.items() for feature in features}
"""Feature -> kind of role."""


def task_features(rows: Mapping[str, Tensor], context: int) -> dict[str, Tensor]:
    """Compute every feature at every position. Indicators are 0 or 1.

    - ``top_f``: the prefix is valid and its nearest unmatched opener is of family f.
    - ``met_f``: the same before this token. That is what a closer has to match, so it also holds where the
      token makes the prefix invalid.
    - ``own_balance``: openers minus closers of this token's family so far, over t + 1. A head that attends
      within a family can average it.
    - ``local_invalid``: a closer that meets an empty stack or another family. ``invalid_density``: the share
      of such positions so far.
    - ``raw_average_depth``: openers minus closers so far, over t + 1.

    Args:
        rows: Labelled strings (:func:`gaugeport.pipeline.rotation.toy.strings.label_rows`), n of t tokens.
        context: The model's number of positions.

    Returns:
        Feature -> float64[n, t], in the order of :data:`KIND`.
    """
    ids, labels = rows["input_ids"], rows["labels"]
    opens, closes, sticky_invalid = is_open(ids), is_close(ids), labels[..., 2] == 1
    step = opens.long() - closes.long()
    family = torch.where(opens, ids - OPEN, torch.where(closes, ids - CLOSE, -1))
    positions_so_far = torch.arange(1, ids.shape[1] + 1)
    # 1) tokens
    values = {"is_open": opens, "is_close": closes, "is_special": (ids == BOS) | (ids == EOS)}
    # 2) the stack
    met, top = stack_tops(ids)
    local_invalid = closes & (met != family)
    invalid_before = torch.cat([torch.zeros_like(sticky_invalid[:, :1]), sticky_invalid[:, :-1]], 1)
    own_balance = torch.zeros_like(step)
    for f in range(FAMILIES):
        values[f"family_{f}"] = family == f
        values[f"top_{f}"] = (top == f) & ~sticky_invalid
        values[f"met_{f}"] = (met == f) & ~invalid_before
        own_balance += torch.where(family == f, (step * (family == f)).cumsum(1), 0)
    values["own_balance"] = own_balance / positions_so_far
    values["local_invalid"] = local_invalid
    # 3) depth, validity and position
    values |= {f"depth_{k}": labels[..., 1] == k for k in range(MAX_DEPTH + 1)}
    values["depth"] = labels[..., 1]
    values["raw_average_depth"] = step.cumsum(1) / positions_so_far
    values["sticky_invalid"] = sticky_invalid
    values["invalid_density"] = local_invalid.cumsum(1) / positions_so_far
    values["linear_counter"] = ((positions_so_far - 1) / context).expand(ids.shape)
    values["inverse_counter"] = (1 / positions_so_far).expand(ids.shape)
    return {name: values[name].double() for name in KIND}


def stack_tops(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the family on top of the stack before and after each token, -1 where the stack is empty.

    A closer takes the top off whether it matches or not, as in
    :func:`gaugeport.pipeline.rotation.toy.strings.invalid_labels`.

    Args:
        ids: Tokens, int64[n, t].

    Returns:
        Before and after, int64[n, t] each.
    """
    n, t = ids.shape
    stack, height = torch.full((n, t + 1), -1), torch.zeros(n, 1, dtype=torch.long)
    opens, closes = is_open(ids), is_close(ids)
    tops = [stack.gather(1, height)]
    for i in range(t):
        opening = opens[:, i : i + 1]
        height = (height + opening.long() - closes[:, i : i + 1].long()).clamp(min=0)
        stack.scatter_(1, height, torch.where(opening, ids[:, i : i + 1] - OPEN, stack.gather(1, height)))
        tops.append(stack.gather(1, height))
    top = torch.cat(tops, 1)
    return top[:, :-1], top[:, 1:]
