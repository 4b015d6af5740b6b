"""Lens 1, direct weight decomposition: norms and spectra of QK and OV circuits, head roles, neurons (paper B, section 3.1).

The circuits of a head are d×d matrices of rank at most the head's width (Elhage et al. 2021): ``W_Qᵀ W_K`` decides where
it looks, ``W_O W_V`` what it writes. Read off the folded model, whose readers see streams of norm √d.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gaugeport.charts import chart_of
from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.rotation.lenses.measurement import Row, row
from gaugeport.pipeline.rotation.toy.components import STRINGS_PER_PASS, attention_weights, heads, layer_of
from gaugeport.pipeline.rotation.toy.strings import PAD

LENS = "weights"

UNIFORM = 0.9
"""Relative entropy from which attention counts as uniform: over 32 positions, spread evenly over 32^0.9 ≈ 23 of them."""

CONCENTRATED = 0.5
"""Relative entropy up to which attention counts as concentrated: over 32 positions, on √32 ≈ 6 of them."""

SUBSTANTIAL = 0.5
"""A head writes substantially if its share of its layer's OV norm is at least this part of an even share."""

ALIVE = 0.01
"""A neuron is alive if its product norm is above this part of the largest one's in its layer."""

TOP = 0.1
"""The part of the neurons whose share of the product norm says how concentrated a layer is (``TOP`` itself if it is even)."""

ROLES = ("counter", "lookup", "weak", "mixed")


def weight_rows(model: DyckModel, rows: Mapping[str, Tensor]) -> list[Row]:
    """What lens 1 says of every head and MLP of the folded ``model``; ``rows`` as :mod:`strings` makes them.

    Heads: Frobenius and spectral norms and effective rank of both circuits, the share of the layer's OV norm, the
    relative attention entropy, and a row ``role`` (1) with the text column ``role``. MLPs: see :func:`neuron_rows`.
    Raises ``ValueError`` for a model whose gains are not folded.
    """
    require_folded(model)
    entropy, found = attention_entropy(model, rows["input_ids"]), []
    spectra = circuits(model)
    for head in heads(model):
        values = {}
        for circuit, s in spectra[head].items():
            values[f"{circuit}_frobenius"] = float(s.norm())
            values[f"{circuit}_spectral"] = float(s.max())
            values[f"{circuit}_effective_rank"] = effective_rank(s)
        values["ov_share"] = ov_share(spectra, head)
        values["attention_entropy"] = entropy[head]
        role = head_role(entropy[head], values["ov_share"], model.config.num_attention_heads)
        found += [row(LENS, head, m, v) for m, v in values.items()]
        found.append(row(LENS, head, "role", 1.0, role=role))
    return found + neuron_rows(model)


def neuron_rows(model: DyckModel) -> list[Row]:
    """Of every MLP: its neurons, how many are :data:`ALIVE`, median and largest product norm, share of the :data:`TOP`."""
    found = []
    for layer in range(model.config.num_hidden_layers):
        norms = neuron_norms(model, layer)
        top = max(1, round(TOP * len(norms)))
        total = float(norms.sum())
        values = {
            "neurons": float(len(norms)),
            "neurons_alive": float(alive(norms).sum()),
            "product_norm_median": float(norms.median()),
            "product_norm_max": float(norms.max()),
            "top_tenth_share": float(norms.sort(descending=True).values[:top].sum()) / total
            if total > 0
            else 0.0,
        }
        found += [row(LENS, f"L{layer}M", m, v) for m, v in values.items()]
    return found


@torch.no_grad()
def circuits(model: DyckModel) -> dict[str, dict[str, Tensor]]:
    """Head -> ``qk`` and ``ov`` -> the singular values of ``W_Qᵀ W_K`` and ``W_O W_V``, float64[head width], descending.

    QK is not divided by √(head width): a score is the form's value over that root.
    """
    found = {}
    for head in heads(model):
        attention = model.model.layers[layer_of(head)].self_attn
        k = int(head.split("H")[1])
        q, key, v = (
            p.weight.chunk(attention.heads)[k] for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        out = attention.o_proj.weight.chunk(attention.heads, 1)[k]
        found[head] = {"qk": product_spectrum(q.T, key), "ov": product_spectrum(out, v)}
    return found


def product_spectrum(left: Tensor, right: Tensor) -> Tensor:
    """Singular values of ``left @ right`` ([m, r] by [r, n], r the smaller), from r×r matrices. float64[r]"""
    r_left, r_right = torch.linalg.qr(left.double()).R, torch.linalg.qr(right.T.double()).R
    return torch.linalg.svdvals(r_left @ r_right.T)


def effective_rank(singular: Tensor) -> float:
    """``exp`` of the entropy of the normalised singular values (Roy and Vetterli 2007); 0 of a zero matrix."""
    total = float(singular.sum())
    if total == 0:
        return 0.0
    p = singular / total
    return float(torch.special.entr(p).sum().exp())


def ov_share(spectra: Mapping[str, Mapping[str, Tensor]], head: str) -> float:
    """A head's part of the sum of its layer's OV Frobenius norms."""
    layer = {h: float(s["ov"].norm()) for h, s in spectra.items() if layer_of(h) == layer_of(head)}
    total = sum(layer.values())
    return layer[head] / total if total > 0 else 0.0


@torch.no_grad()
def attention_entropy(model: DyckModel, ids: Tensor) -> dict[str, float]:
    """Head -> mean entropy of its attention over that of uniform causal attention: 0 on one position, 1 uniform.

    The mean runs over the queries of ``ids`` int64[n, t] that are neither padding nor the first token, which sees only
    itself. Raises ``ValueError`` where there is none.
    """
    where = torch.arange(ids.shape[1])
    kept = (ids != PAD) & (where > 0)
    if not bool(kept.any()):
        raise ValueError(f"ids of shape {tuple(ids.shape)} have no query behind the first token to measure")
    total = dict.fromkeys(heads(model), 0.0)
    for part, keep in zip(ids.split(STRINGS_PER_PASS), kept.split(STRINGS_PER_PASS), strict=True):
        for head, weights in attention_weights(model, part).items():
            total[head] += float(torch.special.entr(weights.double()).sum(-1)[keep].sum())
    uniform = float((kept * torch.log1p(where.double())).sum())
    return {head: value / uniform for head, value in total.items()}


def head_role(entropy: float, share: float, n_heads: int) -> str:
    """One of :data:`ROLES` from a head's relative attention entropy and its share of its layer's OV norm.

    Uniform attention with a substantial write averages over the past: a *counter*. Concentrated attention with one
    retrieves something: a *lookup* (section 3.1). *weak* writes little whatever it looks at, *mixed* is between the two.
    """
    if share * n_heads < SUBSTANTIAL:
        return "weak"
    if entropy >= UNIFORM:
        return "counter"
    return "lookup" if entropy <= CONCENTRATED else "mixed"


@torch.no_grad()
def neuron_norms(model: DyckModel, layer: int) -> Tensor:
    """‖w_in‖·‖w_out‖ of every neuron of a layer, float64[neurons]: the most it can write per unit of what it reads."""
    mlp = model.model.layers[layer].mlp
    return mlp.up_proj.weight.double().norm(dim=1) * mlp.down_proj.weight.double().norm(dim=0)


def alive(norms: Tensor) -> Tensor:
    """Which of a layer's neurons have a product norm above :data:`ALIVE` times the largest. bool[neurons]"""
    return norms > ALIVE * norms.max()


def require_folded(model: DyckModel) -> None:
    """Raises ``ValueError`` where a norm has a gain that is not 1: weights alone do not say then what a reader sees."""
    if not chart_of(model).folded:
        raise ValueError(
            "the lenses read a folded model, and this one has gains: pass gaugeport.charts.fold_gains(model)"
        )
