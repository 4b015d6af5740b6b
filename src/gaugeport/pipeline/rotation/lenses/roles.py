"""Lens 5, the constructive specification: find which task features every component raises.

Source: paper B, sections 3.5 and 5.

The specification is the folded model itself; this lens annotates it. Task features are regressed on the
stream, on each component's output, and on what each weight matrix reads or writes: least squares with an
intercept and no ridge, fitted on the first half of the strings and scored by R² on the second.

**The rule for roles.** How much a component *raises* a feature is the R² of the stream that it reads plus
what it writes, minus the R² of the stream that it reads: what it alone would add. Its role is the feature
that it raises most, if by at least :data:`LEAST_RISE`. The alternative, leaving it out of the finished stream
(``lost``), credits nobody where two heads do the same, as the paper's redundant pairs do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gaugeport.models.dyck import IGNORED, DyckModel, by_head
from gaugeport.pipeline.rotation.lenses.measurement import NONE, Row, row
from gaugeport.pipeline.rotation.lenses.task_features import KIND, task_features
from gaugeport.pipeline.rotation.lenses.weights import require_folded
from gaugeport.pipeline.rotation.toy.components import GraphRun, components, is_mlp, layer_of, run_graph
from gaugeport.pipeline.rotation.toy.sites import value_at

LENS = "roles"
LEAST_RISE = 0.05
"""The least rise of R² that makes a role."""

LEAST_R2_CARRIED = 0.9
"""The least R² at which a weight matrix reads or writes a feature."""

RELATIVE_CUTOFF = 1e-6
"""Singular values below this part of the largest are rounding of float32, and left out of a fit."""


def scores(x: Tensor, features: Mapping[str, Tensor], kept: Tensor) -> dict[str, float]:
    """Regress features on activations, and score the fit on held-out strings.

    The first half of the rows is fitted, the second half scored. R² is 1 minus the squared error over the
    squared deviation from the mean there; it is below 0 where the fit is worse than that mean.

    Args:
        x: Activations, float[n, t, width].
        features: Feature -> values, float64[n, t].
        kept: Positions that count, bool[n, t].

    Returns:
        Feature -> R². Features that do not vary in both halves have none, and are left out.

    Raises:
        ValueError: For fewer than two rows.
    """
    if len(x) < 2:
        raise ValueError(f"{len(x)} rows cannot be split into two halves; expected 2 or more")
    fitted = kept & (torch.arange(len(x)) < len(x) // 2)[:, None]
    scored = kept & ~fitted
    y = torch.stack(list(features.values()), -1)
    intercept = torch.ones(*x.shape[:2], 1, dtype=torch.float64)
    inputs = torch.cat([x.detach().double().cpu(), intercept], -1)
    weights = torch.linalg.lstsq(inputs[fitted], y[fitted], rcond=RELATIVE_CUTOFF, driver="gelsd").solution
    error = ((y[scored] - inputs[scored] @ weights) ** 2).sum(0)
    spread = ((y[scored] - y[scored].mean(0)) ** 2).sum(0)
    varies = (spread > 0) & (y[fitted].std(0) > 0)
    return {name: float(1 - error[k] / spread[k]) for k, name in enumerate(features) if varies[k]}


@torch.no_grad()
def role_rows(model: DyckModel, rows: Mapping[str, Tensor]) -> list[Row]:
    """Score every feature at every site of the stream and on every component, and name the components' roles.

    Args:
        model: A Dyck-3 model, gains folded.
        rows: Labelled strings, two or more.

    Returns:
        ``r2`` of sites. Of components, with the column ``feature``: ``r2_output`` (of what it writes alone),
        ``raised`` (the rule of this module), and ``lost`` (R² of the stream after it minus R² of that stream
        without it). And two rows with the column ``role``, the feature's :data:`.task_features.KIND`:
        ``role``, the feature raised most, and ``distinctive``, the one raised furthest above the mean of the
        other heads of its layer. Both columns are ``none`` below :data:`LEAST_RISE`.

    Raises:
        ValueError: If the model's gains are not folded, or for fewer than two rows.
    """
    require_folded(model)
    written = run_graph(model, rows["input_ids"]).written
    features = task_features(rows, model.config.max_position_embeddings)
    kept = rows["labels"][..., 0] != IGNORED

    def r2(x: Tensor) -> dict[str, float]:
        return scores(x, features, kept)

    result: list[Row] = []
    raised: dict[str, dict[str, float]] = {}
    for layer in range(model.config.num_hidden_layers):
        # 1) the sites of the stream
        stream = {
            place: value_at(model, written, f"resid_{place}_{layer}") for place in ("pre", "mid", "post")
        }
        known = {place: r2(x) for place, x in stream.items()}
        for place, values in known.items():
            result += _feature_rows(f"resid_{place}_{layer}", "r2", values)
        # 2) the components of the layer
        for c in (c for c in components(model) if layer_of(c) == layer):
            reads, after = ("mid", "post") if is_mlp(c) else ("pre", "mid")
            with_it, without_it = r2(stream[reads] + written[c]), r2(stream[after] - written[c])
            raised[c] = {f: v - known[reads][f] for f, v in with_it.items()}
            lost = {f: known[after][f] - v for f, v in without_it.items()}
            result += _feature_rows(c, "r2_output", r2(written[c]))
            result += _feature_rows(c, "raised", raised[c])
            result += _feature_rows(c, "lost", lost)
    # 3) roles
    for c, rises in raised.items():
        result.append(_role_row(c, "role", rises))
        result.append(_role_row(c, "distinctive", _above_peers(c, raised)))
    return result


@torch.no_grad()
def tensor_rows(model: DyckModel, rows: Mapping[str, Tensor]) -> list[Row]:
    """Count the features that every weight matrix reads or writes.

    Matrices of attention are taken head by head. A reader is scored on its product with what it reads.

    Args:
        model: A Dyck-3 model, gains folded.
        rows: Labelled strings, two or more.

    Returns:
        ``reads`` or ``writes`` of every tensor: how many features have an R² of :data:`LEAST_R2_CARRIED` or
        more. The column ``feature`` lists them, best first.

    Raises:
        ValueError: As :func:`role_rows`.
    """
    require_folded(model)
    reads, writes = _tensor_products(model, run_graph(model, rows["input_ids"]))
    features = task_features(rows, model.config.max_position_embeddings)
    kept = rows["labels"][..., 0] != IGNORED
    result = []
    for metric, tensors in (("reads", reads), ("writes", writes)):
        for name, x in tensors.items():
            r2 = scores(x, features, kept)
            carried = sorted((f for f in r2 if r2[f] >= LEAST_R2_CARRIED), key=lambda f: -r2[f])
            result.append(row(LENS, name, metric, len(carried), feature=", ".join(carried) or NONE))
    return result


def _tensor_products(model: DyckModel, clean: GraphRun) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return tensor -> product with what it reads, and tensor -> what it writes, both float[b, t, width]."""
    written = clean.written
    writes = {"model.embed_tokens.weight": written["embed"], "model.position": written["position"]}
    unembeddings = ("lm_head.weight", "depth_head.weight", "valid_head.weight")
    reads = dict(zip(unembeddings, by_head(clean.logits), strict=True))
    for n, layer in enumerate(model.model.layers):
        prefix, heads = f"model.layers.{n}", range(layer.self_attn.heads)
        normed = layer.input_layernorm(value_at(model, written, f"resid_pre_{n}"))
        for name in ("q_proj", "k_proj", "v_proj"):
            per_head = getattr(layer.self_attn, name)(normed).chunk(layer.self_attn.heads, -1)
            reads |= {f"{prefix}.self_attn.{name}.weight[L{n}H{h}]": per_head[h] for h in heads}
        writes |= {f"{prefix}.self_attn.o_proj.weight[L{n}H{h}]": written[f"L{n}H{h}"] for h in heads}
        reads[f"{prefix}.mlp.up_proj.weight"] = value_at(model, written, f"mlp_pre_{n}")
        writes[f"{prefix}.mlp.down_proj.weight"] = written[f"L{n}M"]
    return reads, writes


def _feature_rows(component: str, metric: str, values: Mapping[str, float]) -> list[Row]:
    """Make one row for each feature."""
    return [row(LENS, component, metric, v, feature=f) for f, v in values.items()]


def _above_peers(component: str, raised: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return feature -> its rise minus the mean rise by the other heads of the layer; an MLP has no peers."""
    layer = layer_of(component)
    peers: list[str] = []
    if not is_mlp(component):
        peers = [p for p in raised if p != component and layer_of(p) == layer and not is_mlp(p)]
    above = {}
    for feature, rise in raised[component].items():
        above[feature] = rise - sum(raised[p][feature] for p in peers) / max(len(peers), 1)
    return above


def _role_row(component: str, metric: str, rises: Mapping[str, float]) -> Row:
    """Name the feature with the greatest rise, and its kind, if the rise is large enough."""
    feature = max(rises, key=lambda f: rises[f])
    value = rises[feature]
    if value < LEAST_RISE:
        feature = NONE
    return row(LENS, component, metric, value, feature=feature, role=KIND.get(feature, NONE))
