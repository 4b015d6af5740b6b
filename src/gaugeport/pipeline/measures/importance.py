"""Importance of coordinates and neurons: the scores that top-k lists are made of, and how two such lists compare.

All are means over held-out tokens, the first tokens of each row left out, at one site of the stream and inside the MLP
of the block that ends there. The loss is the *sum* of the next-token losses, so that no score depends on batching.
On LayerNorm charts the component along the all-ones direction is unobservable and is projected out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor, nn

from gaugeport.charts import Chart, chart_of
from gaugeport.charts.rules import matches
from gaugeport.groups import Element
from gaugeport.streams.activations import check_sites, record_streams
from gaugeport.streams.interventions import edited
from gaugeport.transport.directions import transport_magnitude
from gaugeport.transport.indices import transport_indices

Scores = dict[str, Tensor]
"""List name -> float64[width], one number per coordinate or neuron; a list is its k largest absolute values."""


class Kind(NamedTuple):
    """What a list is over (``coordinate`` of the stream or ``neuron``), and whether its entries have a sign."""

    space: str
    signed: bool


LISTS = {
    "activation": Kind("coordinate", False),  # mean |x|
    "mean_activation": Kind("coordinate", True),  # mean x
    "mean_gradient": Kind("coordinate", True),  # mean ∂loss/∂x
    "gradient_activation": Kind("coordinate", False),  # mean |x · ∂loss/∂x|
    "integrated_gradients": Kind(
        "coordinate", False
    ),  # mean |(x − x₀) · mean of ∂loss/∂x on the way from x₀ to x|
    "neuron_activation": Kind("neuron", False),  # mean |what the down-projection reads|
}
"""Every list. Means of x and of its gradient are vectors of the stream, the others magnitudes."""

BASELINES = ("mean", "zero")
"""Where integrated gradients start. At zero an RMSNorm model's gradient is singular, so 16 steps are not enough there."""


def score_importance(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    site: str,
    *,
    ig_steps: int = 16,
    baseline: str = "mean",
    skip_first: int = 1,
) -> Scores:
    """The scores of every list of :data:`LISTS` at ``site`` (``block0`` …), in evaluation mode.

    Integrated gradients (Sundararajan et al. 2017) move all counted tokens at once along the straight line from the
    baseline, the mean stream of the counted tokens or zero, by the midpoint rule with ``ig_steps`` gradients.

    Raises ``ValueError`` for an unknown site or baseline, ``embed`` (no MLP ends there), fewer than one step, no
    counted token, and scores that are not finite.
    """
    chart = chart_of(model)
    check_sites(site, len(chart.blocks(model)))
    if site == "embed" or baseline not in BASELINES or ig_steps < 1:
        raise ValueError(
            f"site={site}, baseline={baseline!r}, ig_steps={ig_steps}; allowed: the output of a block; "
            f"{', '.join(BASELINES)}; at least 1"
        )
    with _frozen(model), torch.no_grad():
        total, tokens = _activations(model, chart, site, batches, skip_first)
        start = total["mean_activation"] / tokens if baseline == "mean" else torch.zeros(chart.width)
        for batch in batches:
            for name, part in _attributions(model, chart, site, batch, skip_first, start, ig_steps).items():
                total[name] = total.get(name, 0) + part
    scores = {name: (total[name] / tokens).cpu() for name in LISTS}
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise ValueError(f"the {name} scores at {site} are not finite")
    return scores


def _activations(
    model: Any, chart: Chart, site: str, batches: Sequence[dict[str, Tensor]], skip_first: int
) -> tuple[Scores, int]:
    """Sums over the counted tokens of what needs no gradient, and their number."""
    total: Scores = {}
    tokens = 0
    for batch in batches:
        inputs, counted = _inputs(model, batch, skip_first)
        with record_streams(model, chart, [site]) as streams, _neurons(model, chart, site) as neurons:
            model.base_model(**inputs, use_cache=False)
        x, hidden = _observed(chart, streams[site])[counted].double(), neurons[0][counted].double()
        parts = {"activation": x.abs(), "mean_activation": x, "neuron_activation": hidden.abs()}
        for name, part in parts.items():
            total[name] = total.get(name, 0) + part.sum(0)
        tokens += int(counted.sum())
    if not tokens:
        raise ValueError(
            "no tokens to score: the batches were empty, fully masked or no longer than skip_first"
        )
    return total, tokens


def _attributions(
    model: Any,
    chart: Chart,
    site: str,
    batch: dict[str, Tensor],
    skip_first: int,
    start: Tensor,
    ig_steps: int,
) -> Scores:
    """Sums over the counted tokens of one batch of what needs gradients."""
    inputs, counted = _inputs(model, batch, skip_first)

    def gradient(move: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The stream as it is, and the gradient of the loss at the stream ``move`` makes of it; both [tokens, d]."""
        found: list[Tensor] = []

        def edit(x: Tensor) -> Tensor:
            found.extend((x, move(x).detach().requires_grad_()))
            return found[1]

        with torch.enable_grad(), edited(model, chart, site, edit):
            (slope,) = torch.autograd.grad(_loss(model, inputs), found[1:])
        return _observed(chart, found[0])[counted].double(), slope[counted].double()

    x, slope = gradient(lambda stream: stream)
    along = torch.zeros_like(slope)
    for step in range(ig_steps):
        on_the_way = functools.partial(_between, start, (step + 0.5) / ig_steps, counted[..., None])
        along += gradient(on_the_way)[1] / ig_steps
    return {
        "mean_gradient": slope.sum(0),
        "gradient_activation": (slope * x).abs().sum(0),
        "integrated_gradients": (along * (x - start.to(x))).abs().sum(0),
    }


def _between(start: Tensor, share: float, inside: Tensor, stream: Tensor) -> Tensor:
    return torch.where(inside, torch.lerp(start.to(stream), stream, share), stream)


def _inputs(model: nn.Module, batch: dict[str, Tensor], skip_first: int) -> tuple[dict[str, Tensor], Tensor]:
    device = next(model.parameters()).device
    ids = batch["input_ids"].to(device)
    mask = batch.get("attention_mask", torch.ones_like(ids)).to(device)
    return {"input_ids": ids, "attention_mask": mask}, (mask > 0) & (mask.cumsum(1) > skip_first)


def _loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The sum of the next-token losses of a batch, nats."""
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    targets = inputs["input_ids"][:, 1:].masked_fill(inputs["attention_mask"][:, 1:] == 0, -100)
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def _observed(chart: Chart, stream: Tensor) -> Tensor:
    return stream - stream.mean(-1, keepdim=True) if chart.norm == "layer" else stream


@contextmanager
def _neurons(model: nn.Module, chart: Chart, site: str) -> Iterator[list[Tensor]]:
    """While open, a forward pass leaves the neuron activations [batch, time, n] of the block that ends at ``site``."""
    block, held = site.removeprefix("block"), []
    down = next(
        name
        for name, rule in chart.rules.items()
        if rule.role == "write"
        and rule.match(name) == block
        and any(matches(p, name) for p, _ in chart.family.neurons)
    )
    module = model.get_submodule(down.removesuffix(".weight"))
    handle = module.register_forward_pre_hook(lambda m, args: held.append(args[0]))
    try:
        yield held
    finally:
        handle.remove()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients for parameters: the graph then begins at the site. Both are put back."""
    modes, flags = (
        [(m, m.training) for m in model.modules()],
        [(p, p.requires_grad) for p in model.parameters()],
    )
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p, flag in flags:
            p.requires_grad_(flag)


def top_indices(score: Tensor, k: int) -> Tensor:
    """The indices of the ``k`` largest absolute values, largest first: int64[k]. Raises ``ValueError`` on a bad k."""
    if not 1 <= k <= len(score):
        raise ValueError(f"a list of the top {k} of {len(score)}; allowed: 1 to {len(score)}")
    return score.abs().argsort(descending=True, stable=True)[:k]


def compare_lists(a: Tensor, b: Tensor, g: Element, k: int, signed: bool = False) -> dict[str, float]:
    """How the list of scores ``a``, moved by ``g``, compares with the list of scores ``b``; both float[width].

    ``jaccard`` |both| / |either| of the top k; ``precision`` |both| / k; ``rank_correlation`` Spearman's of all
    absolute scores; for signed lists ``sign_agreement``: the share of the moved list whose sign is that of ``b`` there.
    Raises ``ValueError`` for a rotation, naming the groups under which an index has an image.
    """
    listed = top_indices(a, k)
    moved = transport_indices(listed, g)
    common = len(set(moved.index.tolist()) & set(top_indices(b, k).tolist()))
    ranks = stats.spearmanr(transport_magnitude(a.abs(), g).numpy(), b.abs().numpy())
    found = {
        "jaccard": common / (2 * k - common),
        "precision": common / k,
        "rank_correlation": float(ranks.statistic),
    }
    if signed:
        here = moved.sign * a[listed].sign()
        found["sign_agreement"] = float((here == b[moved.index].sign()).double().mean())
    return found


def agreement_by_chance(metric: str, n: int, k: int) -> float:
    """What :func:`compare_lists` is expected to give under a uniform random gauge of ``n`` coordinates, exactly.

    The number of common members of two random k-subsets is hypergeometric.
    """
    if metric == "jaccard":
        return float(sum(stats.hypergeom.pmf(m, n, k, k) * m / (2 * k - m) for m in range(k + 1)))
    return {"precision": k / n, "rank_correlation": 0.0, "sign_agreement": 0.5}[metric]
