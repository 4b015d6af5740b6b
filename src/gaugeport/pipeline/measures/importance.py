"""Score the importance of coordinates and neurons; top-k lists are made of these scores (tables a9, a10).

Every score is a mean over held-out tokens, without the first tokens of each row and without those with
massive activations at the site, which would decide it alone (:mod:`gaugeport.streams.massive`). Coordinates
are those of one site of the stream; neurons are those of the MLP in the block that ends at this site. The
loss is the *sum* of next-token losses, so no score depends on the batch size (but which tokens are massive
does: the median is a batch's). On LayerNorm charts the component along the all-ones direction is
unobservable; it is projected out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gaugeport.charts import Chart, chart_of
from gaugeport.charts.rules import matches
from gaugeport.streams.activations import check_site, record_streams
from gaugeport.streams.interventions import edited
from gaugeport.streams.massive import LEAVE_OUT, check_treatment, massive_tokens

Scores = dict[str, Tensor]
"""Name of a list -> float64[n], a score per coordinate or neuron; a list is the k largest absolute ones."""


Inputs = dict[str, Tensor]
"""Token ids and attention mask of a batch, int64[batch, time]."""
Counted = tuple[Inputs, Tensor]
"""A batch, and bool[batch, time]: which tokens are counted."""


class Kind(NamedTuple):
    """What a list holds, and whether its scores have signs."""

    space: str
    """``coordinate`` (of the stream) or ``neuron``."""
    signed: bool


LISTS = {
    "activation": Kind("coordinate", False),  # mean |x|
    "mean_activation": Kind("coordinate", True),  # mean x
    "mean_gradient": Kind("coordinate", True),  # mean ∂loss/∂x
    "gradient_activation": Kind("coordinate", False),  # mean |x · ∂loss/∂x|
    # mean |(x − x₀) · mean of ∂loss/∂x on the line from x₀ to x|
    "integrated_gradients": Kind("coordinate", False),
    "neuron_activation": Kind("neuron", False),  # mean |input of the down-projection|
}
"""Every list. The signed ones are vectors of the stream, the others magnitudes."""

BASELINES = ("mean", "zero")
"""Where integrated gradients start. An RMSNorm model's gradient is singular at zero: 16 steps are too few."""


def score_importance(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    site: str,
    *,
    ig_steps: int = 16,
    baseline: str = "mean",
    skip_first: int = 1,
    massive: str = LEAVE_OUT,
) -> Scores:
    """Score every list of :data:`LISTS` at one site of a model.

    The model runs in evaluation mode; its mode and its parameters' ``requires_grad`` are restored. Integrated
    gradients (Sundararajan et al. 2017) move all counted tokens at once along the straight line from the
    baseline.

    Args:
        model: a causal language model with a chart.
        batches: batches of token ids, with an attention mask or without.
        site: the output of a block (``block0`` …).
        ig_steps: number of gradients of the midpoint rule, at least 1.
        baseline: where integrated gradients start: ``mean`` (the mean stream of the counted tokens) or
            ``zero``.
        skip_first: number of tokens at the start of each row to leave out.
        massive: ``leave_out`` massive tokens (they keep their stream while the others move along the line of
            integrated gradients), or ``keep`` them.

    Returns:
        Name of a list -> float64[n] on the CPU.

    Raises:
        ValueError: unknown site, baseline or ``massive``, the site ``embed`` (no MLP ends there), no step, no
            token to count, or scores that are not finite.
    """
    chart = chart_of(model)
    site = check_site(site, len(chart.blocks(model)), chart)
    if site == "embed" or baseline not in BASELINES or ig_steps < 1:
        raise ValueError(
            f"site={site}, baseline={baseline!r}, ig_steps={ig_steps}; allowed: the output of a block; "
            f"{', '.join(BASELINES)}; at least 1"
        )
    check_treatment(massive)
    with _frozen(model), torch.no_grad():
        inputs = [_inputs(model, batch, skip_first) for batch in batches]
        if massive == LEAVE_OUT:
            inputs = [_without_massive(model, chart, site, *batch) for batch in inputs]
        total, tokens = _activations(model, chart, site, inputs)
        start = total["mean_activation"] / tokens if baseline == "mean" else torch.zeros(chart.width)
        for batch in inputs:
            for name, part in _attributions(model, chart, site, *batch, start, ig_steps).items():
                total[name] = total.get(name, 0) + part
    scores = {name: (total[name] / tokens).cpu() for name in LISTS}
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise ValueError(f"the {name} scores at {site} are not finite")
    return scores


def _without_massive(model: Any, chart: Chart, site: str, inputs: Inputs, counted: Tensor) -> Counted:
    """Return a batch that no longer counts the tokens that are massive at the site."""
    with record_streams(model, chart, [site]) as streams:
        model.base_model(**inputs, use_cache=False)
    return inputs, counted & ~massive_tokens(_observed(chart, streams[site]), counted)


def _activations(model: Any, chart: Chart, site: str, batches: Sequence[Counted]) -> tuple[Scores, int]:
    """Return the sums over counted tokens of the scores without gradients, and the number of these tokens."""
    total: Scores = {}
    tokens = 0
    for inputs, counted in batches:
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
    inputs: Inputs,
    counted: Tensor,
    start: Tensor,
    ig_steps: int,
) -> Scores:
    """Return the sums over one batch's counted tokens of the scores with gradients."""

    def gradient(move: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the stream, and the gradient of the loss at ``move`` of the stream; both [tokens, d]."""
        original_and_moved: list[Tensor] = []

        def edit(x: Tensor) -> Tensor:
            original_and_moved.extend((x, move(x).detach().requires_grad_()))
            return original_and_moved[1]

        with torch.enable_grad(), edited(model, chart, site, edit):
            (slope,) = torch.autograd.grad(_loss(model, inputs), original_and_moved[1:])
        return _observed(chart, original_and_moved[0])[counted].double(), slope[counted].double()

    x, slope = gradient(lambda stream: stream)
    along = torch.zeros_like(slope)
    for step in range(ig_steps):
        on_the_line = functools.partial(_between, start, (step + 0.5) / ig_steps, counted[..., None])
        along += gradient(on_the_line)[1] / ig_steps
    return {
        "mean_gradient": slope.sum(0),
        "gradient_activation": (slope * x).abs().sum(0),
        "integrated_gradients": (along * (x - start.to(x))).abs().sum(0),
    }


def _between(start: Tensor, share: float, inside: Tensor, stream: Tensor) -> Tensor:
    """Return the stream with its counted tokens (``inside``) at ``share`` of the line from ``start``."""
    return torch.where(inside, torch.lerp(start.to(stream), stream, share), stream)


def _inputs(model: nn.Module, batch: Inputs, skip_first: int) -> Counted:
    """Return the model's inputs, and bool[batch, time]: which tokens are counted."""
    device = next(model.parameters()).device
    ids = batch["input_ids"].to(device)
    mask = batch.get("attention_mask", torch.ones_like(ids)).to(device)
    return {"input_ids": ids, "attention_mask": mask}, (mask > 0) & (mask.cumsum(1) > skip_first)


def _loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the sum of the next-token losses of a batch, in nats."""
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    targets = inputs["input_ids"][:, 1:].masked_fill(inputs["attention_mask"][:, 1:] == 0, -100)
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def _observed(chart: Chart, stream: Tensor) -> Tensor:
    """Return the stream, on LayerNorm charts without its component along the all-ones direction."""
    return stream - stream.mean(-1, keepdim=True) if chart.norm == "layer" else stream


@contextmanager
def _neurons(model: nn.Module, chart: Chart, site: str) -> Iterator[list[Tensor]]:
    """Collect the neuron activations [batch, time, n] of the block that ends at ``site``, per forward."""
    block, activations = site.removeprefix("block"), list[Tensor]()
    down = next(
        name
        for name, rule in chart.rules.items()
        if rule.role == "write"
        and rule.match(name) == block
        and any(matches(p, name) for p, _ in chart.family.neurons)
    )
    module = model.get_submodule(down.removesuffix(".weight"))
    handle = module.register_forward_pre_hook(lambda m, args: activations.append(args[0]))
    try:
        yield activations
    finally:
        handle.remove()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode and switch off gradients of parameters, so that the graph begins at the site."""
    modes = [(m, m.training) for m in model.modules()]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p, flag in flags:
            p.requires_grad_(flag)
