"""Lens 1, direct weight decomposition: measure circuits, head roles and neurons (paper B, section 3.1).

The circuits of a head are d×d matrices of rank at most the head's width (Elhage et al. 2021): ``W_Qᵀ W_K``
decides where it looks, ``W_O W_V`` what it writes. They are computed from the folded model, whose readers see
streams of norm √d.
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

UNIFORM_ENTROPY = 0.9
"""Relative entropy from which attention is uniform: of 32 positions, spread evenly over 32^0.9 ≈ 23."""

CONCENTRATED_ENTROPY = 0.5
"""Relative entropy up to which attention is concentrated: of 32 positions, on √32 ≈ 6."""

SUBSTANTIAL_SHARE = 0.5
"""A head writes substantially if its share of its layer's OV norm is at least this part of an even share."""

ALIVE_SHARE = 0.01
"""A neuron is alive if its product norm is above this part of the largest one of its layer."""

TOP_SHARE = 0.1
"""Part of the neurons, largest first, whose share of the product norm says how concentrated a layer is."""

ROLES = ("counter", "lookup", "weak", "mixed")


def weight_rows(model: DyckModel, rows: Mapping[str, Tensor]) -> list[Row]:
    """Measure every head and MLP of a folded model.

    Args:
        model: A Dyck-3 model, gains folded.
        rows: Labelled strings, on which attention is measured.

    Returns:
        Rows of heads: Frobenius norm, spectral norm and effective rank of both circuits; the share of the
        layer's OV norm; the relative attention entropy; and ``role``, with value 1 and the role in the column
        ``role``. Rows of MLPs: see :func:`neuron_rows`.

    Raises:
        ValueError: If the model's gains are not folded.
    """
    require_folded(model)
    entropy, spectra = attention_entropy(model, rows["input_ids"]), circuit_spectra(model)
    result: list[Row] = []
    for head in heads(model):
        values = {}
        for circuit, singular in spectra[head].items():
            values[f"{circuit}_frobenius"] = float(singular.norm())
            values[f"{circuit}_spectral"] = float(singular.max())
            values[f"{circuit}_effective_rank"] = effective_rank(singular)
        values["ov_share"] = ov_share(spectra, head)
        values["attention_entropy"] = entropy[head]
        role = head_role(entropy[head], values["ov_share"], model.config.num_attention_heads)
        result += [row(LENS, head, metric, value) for metric, value in values.items()]
        result.append(row(LENS, head, "role", 1.0, role=role))
    return result + neuron_rows(model)


def neuron_rows(model: DyckModel) -> list[Row]:
    """Measure the neurons of every MLP.

    Returns:
        Rows of how many neurons there are and how many are alive (:data:`ALIVE_SHARE`), of the median and the
        largest product norm, and of the share of the largest (:data:`TOP_SHARE`).
    """
    result = []
    for layer in range(model.config.num_hidden_layers):
        norms = neuron_norms(model, layer)
        total, largest = float(norms.sum()), norms.sort(descending=True).values
        top = largest[: max(1, round(TOP_SHARE * len(norms)))]
        values = {
            "neurons": float(len(norms)),
            "neurons_alive": float(alive(norms).sum()),
            "product_norm_median": float(norms.median()),
            "product_norm_max": float(norms.max()),
            "top_tenth_share": float(top.sum()) / total if total > 0 else 0.0,
        }
        result += [row(LENS, f"L{layer}M", metric, value) for metric, value in values.items()]
    return result


@torch.no_grad()
def circuit_spectra(model: DyckModel) -> dict[str, dict[str, Tensor]]:
    """Compute the singular values of ``W_Qᵀ W_K`` and ``W_O W_V`` of every head.

    Returns:
        Head -> ``qk`` and ``ov`` -> float64[head width], descending. QK is not divided by √(head width), as
        scores are.
    """
    spectra = {}
    for head in heads(model):
        attention = model.model.layers[layer_of(head)].self_attn
        n, h = attention.heads, int(head.split("H")[1])
        query, key, value = (
            p.weight.chunk(n)[h] for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        out = attention.o_proj.weight.chunk(n, 1)[h]
        spectra[head] = {"qk": product_spectrum(query.T, key), "ov": product_spectrum(out, value)}
    return spectra


def product_spectrum(left: Tensor, right: Tensor) -> Tensor:
    """Compute the singular values of ``left @ right`` from r×r matrices.

    Args:
        left: float[m, r], r at most m.
        right: float[r, n], r at most n.

    Returns:
        float64[r], descending.
    """
    r_left, r_right = torch.linalg.qr(left.double()).R, torch.linalg.qr(right.T.double()).R
    return torch.linalg.svdvals(r_left @ r_right.T)


def effective_rank(singular: Tensor) -> float:
    """Return exp(entropy) of normalised singular values, 0 for a zero matrix (Roy and Vetterli 2007)."""
    total = float(singular.sum())
    if total == 0:
        return 0.0
    return float(torch.special.entr(singular / total).sum().exp())


def ov_share(spectra: Mapping[str, Mapping[str, Tensor]], head: str) -> float:
    """Return a head's part of the sum of its layer's OV Frobenius norms, given :func:`circuit_spectra`."""
    layer = {h: float(s["ov"].norm()) for h, s in spectra.items() if layer_of(h) == layer_of(head)}
    total = sum(layer.values())
    return layer[head] / total if total > 0 else 0.0


@torch.no_grad()
def attention_entropy(model: DyckModel, ids: Tensor) -> dict[str, float]:
    """Measure the mean entropy of every head's attention, relative to that of uniform causal attention.

    The mean runs over the queries that are neither padding nor the first token, which sees only itself.

    Args:
        model: A Dyck-3 model.
        ids: Tokens, int64[n, t].

    Returns:
        Head -> 0 (on one position) to 1 (uniform).

    Raises:
        ValueError: If there is no such query.
    """
    position = torch.arange(ids.shape[1])
    kept = (ids != PAD) & (position > 0)
    if not bool(kept.any()):
        raise ValueError(f"ids have shape {tuple(ids.shape)}; expected a query after the first token")
    total = dict.fromkeys(heads(model), 0.0)
    for part, keep in zip(ids.split(STRINGS_PER_PASS), kept.split(STRINGS_PER_PASS), strict=True):
        for head, weights in attention_weights(model, part).items():
            total[head] += float(torch.special.entr(weights.double()).sum(-1)[keep].sum())
    uniform = float((kept * torch.log1p(position.double())).sum())
    return {head: value / uniform for head, value in total.items()}


def head_role(entropy: float, share: float, n_heads: int) -> str:
    """Name the role of a head by the signature of section 3.1.

    Uniform attention with a substantial write averages over the past: a *counter*. Concentrated attention
    with a substantial write retrieves something: a *lookup*. Ours: *weak* writes little, wherever it looks;
    *mixed* is the rest.

    Args:
        entropy: Relative attention entropy, 0 to 1.
        share: Share of its layer's OV norm, 0 to 1.
        n_heads: Heads of the layer.

    Returns:
        One of :data:`ROLES`.
    """
    if share * n_heads < SUBSTANTIAL_SHARE:
        return "weak"
    if entropy >= UNIFORM_ENTROPY:
        return "counter"
    return "lookup" if entropy <= CONCENTRATED_ENTROPY else "mixed"


@torch.no_grad()
def neuron_norms(model: DyckModel, layer: int) -> Tensor:
    """Return ‖w_in‖·‖w_out‖ of a layer's neurons, float64[neurons]: the most each can write per unit read."""
    mlp = model.model.layers[layer].mlp
    return mlp.up_proj.weight.double().norm(dim=1) * mlp.down_proj.weight.double().norm(dim=0)


def alive(norms: Tensor) -> Tensor:
    """Return where product norms are above :data:`ALIVE_SHARE` of the largest, bool[neurons]."""
    return norms > ALIVE_SHARE * norms.max()


def require_folded(model: DyckModel) -> None:
    """Raise ``ValueError`` if a norm has a gain that is not 1: weights alone do not say then what is read."""
    if not chart_of(model).folded:
        raise ValueError("the model has gains; expected a folded model: gaugeport.charts.fold_gains(model)")
