"""Lens 5, the constructive specification: which task features every component raises (paper B, sections 3.5 and 5).

The specification is the folded model itself; this lens annotates it. Task features are regressed on the stream, on each
component's output and on what each weight matrix reads or writes: least squares with an intercept, no ridge, fitted on the
first half of the strings and scored by R² on the second.

**The role rule.** A component *raises* a feature by R² of the stream that it reads plus what it writes, less R² of the
stream that it reads: what it alone would add. Its role is the feature it raises most, if by :data:`RAISED`. Leaving it out
of the finished stream instead (``lost``) credits nobody where two heads do the same, as the paper's redundant pairs do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gaugeport.models.dyck import IGNORED, MAX_DEPTH, DyckModel, by_head
from gaugeport.pipeline.rotation.lenses.measurement import Row, row
from gaugeport.pipeline.rotation.lenses.weights import require_folded
from gaugeport.pipeline.rotation.toy.components import components, is_mlp, layer_of, run_graph
from gaugeport.pipeline.rotation.toy.sites import value_at
from gaugeport.pipeline.rotation.toy.strings import BOS, CLOSE, EOS, FAMILIES, OPEN, is_close, is_open

LENS = "roles"
RAISED = 0.05
"""The least rise of R² that makes a role."""

CARRIED = 0.9
"""R² from which a weight matrix is said to read or write a feature."""

RCOND = 1e-6
"""Singular values below this part of the largest are the rounding of float32 activations, and left out of the fit."""

NONE = "none"

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


def stack_tops(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The family on top of the stack before and after each token of ``ids`` int64[n, t]; -1 where it is empty.

    After an invalidity the stack goes on as in :func:`strings.invalid`: a closer pops whatever is on top.
    """
    n, t = ids.shape
    stack, height = torch.full((n, t + 1), -1), torch.zeros(n, 1, dtype=torch.long)
    opens, closes = is_open(ids), is_close(ids)
    tops = [stack.gather(1, height)]
    for i in range(t):
        here = opens[:, i : i + 1]
        height = (height + here.long() - closes[:, i : i + 1].long()).clamp(min=0)
        stack.scatter_(1, height, torch.where(here, ids[:, i : i + 1] - OPEN, stack.gather(1, height)))
        tops.append(stack.gather(1, height))
    top = torch.cat(tops, 1)
    return top[:, :-1], top[:, 1:]


def task_features(rows: Mapping[str, Tensor], context: int) -> dict[str, Tensor]:
    """Feature -> its value at every position of ``rows``, float64[n, t]; ``context`` is the model's number of positions.

    Those of section 5's algorithm. Indicators are 0 or 1. ``top_f``: a valid prefix whose nearest unmatched opener is of
    family f. ``met_f``: the same before this token, what a closer must match, also where that makes the prefix invalid.
    ``own_balance``: openers minus closers of this token's family so far, over t + 1, which a head that attends within a
    family can average. ``local_invalid``: a closer that meets an empty stack or another family; ``invalid_density``: their
    share of the positions so far; ``raw_average_depth``: openers minus closers over t + 1.
    """
    ids, labels = rows["input_ids"], rows["labels"]
    opens, closes, sticky = is_open(ids), is_close(ids), labels[..., 2] == 1
    step = opens.long() - closes.long()
    family = torch.where(opens, ids - OPEN, torch.where(closes, ids - CLOSE, -1))
    count = torch.arange(1, ids.shape[1] + 1)
    met, top = stack_tops(ids)
    wrong = closes & (met != family)
    before = torch.cat([torch.zeros_like(sticky[:, :1]), sticky[:, :-1]], 1)
    own = torch.zeros_like(step)
    for f in range(FAMILIES):
        own += torch.where(family == f, (step * (family == f)).cumsum(1), 0)
    found = {"is_open": opens, "is_close": closes, "is_special": (ids == BOS) | (ids == EOS)}
    for f in range(FAMILIES):
        found |= {
            f"family_{f}": family == f,
            f"top_{f}": (top == f) & ~sticky,
            f"met_{f}": (met == f) & ~before,
        }
    found |= {f"depth_{k}": labels[..., 1] == k for k in range(MAX_DEPTH + 1)}
    found |= {
        "depth": labels[..., 1],
        "raw_average_depth": step.cumsum(1) / count,
        "own_balance": own / count,
    }
    found |= {"local_invalid": wrong, "sticky_invalid": sticky, "invalid_density": wrong.cumsum(1) / count}
    found |= {
        "linear_counter": ((count - 1) / context).expand(ids.shape),
        "inverse_counter": (1 / count).expand(ids.shape),
    }
    return {name: found[name].double() for name in KIND}


def scores(x: Tensor, features: Mapping[str, Tensor], kept: Tensor) -> dict[str, float]:
    """Feature -> held-out R² of its regression on ``x`` [n, t, width], over the positions ``kept`` bool[n, t].

    Fitted on the first half of the rows, scored on the second (1 - squared error over squared deviation from the mean
    there; below 0 where the fit is worse than that mean). Features without variance in either half are left out, having
    no R². Raises ``ValueError`` for fewer than two rows.
    """
    if len(x) < 2:
        raise ValueError(f"{len(x)} rows have no two halves; wanted: 2 or more")
    fit = kept & (torch.arange(len(x)) < len(x) // 2)[:, None]
    test = kept & ~fit
    y = torch.stack(list(features.values()), -1)
    inputs = torch.cat([x.detach().double().cpu(), torch.ones(*x.shape[:2], 1, dtype=torch.float64)], -1)
    weights = torch.linalg.lstsq(inputs[fit], y[fit], rcond=RCOND, driver="gelsd").solution
    error = ((y[test] - inputs[test] @ weights) ** 2).sum(0)
    spread = ((y[test] - y[test].mean(0)) ** 2).sum(0)
    varies = (spread > 0) & (y[fit].std(0) > 0)
    return {name: float(1 - error[k] / spread[k]) for k, name in enumerate(features) if varies[k]}


@torch.no_grad()
def role_rows(model: DyckModel, rows: Mapping[str, Tensor]) -> list[Row]:
    """What lens 5 says of the folded ``model``: R² of every feature at every site of the stream, and of every component.

    Sites: ``r2``. Components, each with the text column ``feature``: ``r2_output`` (of what it writes alone), ``raised``
    (the module's rule), ``lost`` (R² of the stream behind its sublayer less R² of that stream without it); then ``role``,
    the most raised feature, and ``distinctive``, the one that it raises furthest above the mean of the other heads of its
    layer; their text column ``role`` is the :data:`KIND`, both ``none`` below :data:`RAISED`.
    Raises ``ValueError`` for a model whose gains are not folded.
    """
    require_folded(model)
    written = run_graph(model, rows["input_ids"]).written
    features, kept = (
        task_features(rows, model.config.max_position_embeddings),
        rows["labels"][..., 0] != IGNORED,
    )

    def r2(x: Tensor) -> dict[str, float]:
        return scores(x, features, kept)

    found, raised = [], {}
    for layer in range(model.config.num_hidden_layers):
        stream = {
            place: value_at(model, written, f"resid_{place}_{layer}") for place in ("pre", "mid", "post")
        }
        known = {place: r2(x) for place, x in stream.items()}
        for place, values in known.items():
            found += [row(LENS, f"resid_{place}_{layer}", "r2", v, feature=f) for f, v in values.items()]
        for c in (c for c in components(model) if layer_of(c) == layer):
            reads, behind = ("mid", "post") if is_mlp(c) else ("pre", "mid")
            with_it, without = r2(stream[reads] + written[c]), r2(stream[behind] - written[c])
            raised[c] = {f: v - known[reads][f] for f, v in with_it.items()}
            found += [row(LENS, c, "r2_output", v, feature=f) for f, v in r2(written[c]).items()]
            found += [row(LENS, c, "raised", v, feature=f) for f, v in raised[c].items()]
            found += [row(LENS, c, "lost", known[behind][f] - v, feature=f) for f, v in without.items()]
    for c, rises in raised.items():
        peers = (
            [p for p in raised if p != c and layer_of(p) == layer_of(c) and not is_mlp(p)]
            if not is_mlp(c)
            else []
        )
        above = {f: v - sum(raised[p][f] for p in peers) / max(len(peers), 1) for f, v in rises.items()}
        found += [_best(c, "role", rises), _best(c, "distinctive", above)]
    return found


@torch.no_grad()
def tensor_rows(model: DyckModel, rows: Mapping[str, Tensor]) -> list[Row]:
    """Per tensor of the folded model (attention's per head) how many features it ``reads`` or ``writes`` at R² ≥ :data:`CARRIED`.

    ``feature`` lists them, best first. Readers are scored on their products with what they read. Raises as :func:`role_rows`.
    """
    require_folded(model)
    done = run_graph(model, rows["input_ids"])
    features, kept = (
        task_features(rows, model.config.max_position_embeddings),
        rows["labels"][..., 0] != IGNORED,
    )
    writes = {"model.embed_tokens.weight": done.written["embed"], "model.position": done.written["position"]}
    reads = dict(
        zip(("lm_head.weight", "depth_head.weight", "valid_head.weight"), by_head(done.logits), strict=True)
    )
    for n, layer in enumerate(model.model.layers):
        at, normed = (
            f"model.layers.{n}",
            layer.input_layernorm(value_at(model, done.written, f"resid_pre_{n}")),
        )
        for name in ("q_proj", "k_proj", "v_proj"):
            parts = getattr(layer.self_attn, name)(normed).chunk(layer.self_attn.heads, -1)
            reads |= {f"{at}.self_attn.{name}.weight[L{n}H{h}]": x for h, x in enumerate(parts)}
        heads = {h: done.written[f"L{n}H{h}"] for h in range(layer.self_attn.heads)}
        writes |= {f"{at}.self_attn.o_proj.weight[L{n}H{h}]": x for h, x in heads.items()}
        reads[f"{at}.mlp.up_proj.weight"] = value_at(model, done.written, f"mlp_pre_{n}")
        writes[f"{at}.mlp.down_proj.weight"] = done.written[f"L{n}M"]
    found = []
    for metric, tensors in (("reads", reads), ("writes", writes)):
        for name, x in tensors.items():
            r2 = scores(x, features, kept)
            carried = sorted((f for f in r2 if r2[f] >= CARRIED), key=lambda f: -r2[f])
            found.append(row(LENS, name, metric, len(carried), feature=", ".join(carried) or NONE))
    return found


def _best(component: str, metric: str, rises: Mapping[str, float]) -> Row:
    feature = max(rises, key=lambda f: rises[f])
    value = rises[feature]
    if value < RAISED:
        feature = NONE
    return row(LENS, component, metric, value, feature=feature, role=KIND.get(feature, NONE))
