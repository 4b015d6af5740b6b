"""Measure which group is the exact residual gauge group of each architecture family (table a1)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from gaugeport.charts import dyck
from gaugeport.charts.chart import FAMILIES, Chart, chart_of
from gaugeport.charts.fold import fold_gains
from gaugeport.charts.logit_change import change_under, norms_in_float64, random_tokens, yardstick_for
from gaugeport.groups import (
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    contains,
)

MODEL_TYPES: tuple[str, ...] = tuple(t for f in FAMILIES if f is not dyck.FAMILY for t in f.model_types)
"""Every architecture of the table: all language models, so not paper B's toy."""

ELEMENTS: tuple[type[SignedPermutation | Orthogonal], ...] = (
    Permutation,
    GlobalSignPermutation,
    SignedPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
)

CHARTS = ("raw", "degenerate", "folded")
"""The charts that a model is measured in."""


def gauge_group_rows(
    family: str,
    seed: int,
    dtype: str = "float64",
    width: int = 32,
    trained: Any = None,
    measured: Sequence[str] = CHARTS,
) -> list[dict[str, Any]]:
    """Measure the relative logit change of a model under a random element of each group.

    There are three charts: ``raw`` (the model: random gains and biases, or those of ``trained``), ``folded``
    (the same model after ``fold_gains``; left out for post-norm families) and ``degenerate`` (every gain 1,
    as freshly initialised).

    Args:
        family: a model type of :data:`MODEL_TYPES`, of which a tiny random model is made.
        seed: seed of that model, its tokens and the elements.
        dtype: ``float32`` or ``float64``; in float64 the norms compute in float64 too.
        width: width d of the random model's stream, a multiple of 8.
        trained: a causal language model to measure instead of a random one; it is left unchanged.
        measured: the charts to measure it in, some of :data:`CHARTS`.

    Returns:
        Rows ``{chart, group, metric, value, yardstick, theory}``. ``value`` is max|Δlogits| / std(logits);
        ``yardstick`` is the change that summation order (and, for rotations, rounding) may cause; ``theory``
        is ``exact`` or ``broken``, by the group of the chart and never by the measurement.

    Raises:
        ValueError: unknown family or dtype.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype={dtype!r}; allowed: float32, float64")
    generator = torch.Generator().manual_seed(seed)
    raw = tiny_model(family, generator, width) if trained is None else copy.deepcopy(trained)
    raw, chart = raw.to(getattr(torch, dtype)), chart_of(raw)
    makers = {"raw": lambda: raw, "degenerate": lambda: with_unit_gains(raw)}
    if chart.foldable:
        makers["folded"] = lambda: fold_gains(raw)
    charts = {name: make() for name, make in makers.items() if name in measured}
    tokens = random_tokens(raw, generator)
    records: list[dict[str, Any]] = []
    norms = norms_in_float64 if dtype == "float64" else nullcontext
    for name, model in charts.items():
        here, work = chart_of(model), copy.deepcopy(model)
        exact = exact_group(here, name)
        with norms(model), norms(work):
            for cls in ELEMENTS:
                g = generic_element(cls, chart.width, generator)
                rotation = g if isinstance(g, Orthogonal) else None
                record = {
                    "chart": name,
                    "group": cls.group,
                    "metric": "relative_logit_change",
                    "value": change_under(here, model, work, tokens, g),
                    "yardstick": yardstick_for(here, model, work, tokens, generator, rotation),
                    "theory": "exact" if contains(exact, g) else "broken",
                }
                records.append(record)
    return records


def exact_group(chart: Chart, name: str) -> str:
    """Return the name of a chart's exact group by theory.

    Args:
        chart: the chart of the model.
        name: ``raw``, ``folded`` or ``degenerate``. Gains of 1 commute with every rotation, so the degenerate
            chart of any family has the largest group.
    """
    if name == "degenerate":
        return "mean_preserving_orthogonal" if chart.norm == "layer" else "orthogonal"
    return chart.group


def generic_element(
    cls: type[SignedPermutation | Orthogonal], d: int, generator: torch.Generator
) -> SignedPermutation | Orthogonal:
    """Draw a random element that is in none of the table's smaller groups, and so is not the identity.

    Args:
        cls: the group.
        d: width.
        generator: random generator.
    """
    while True:
        g = cls.random(d, generator)
        if isinstance(g, Orthogonal):
            return g  # almost surely generic
        n_flipped = int((g.sign < 0).sum())
        moves = not torch.equal(g.perm, torch.arange(d))
        generic_signs = {"permutation": n_flipped == 0, "global_sign_permutation": n_flipped == d}
        if moves and generic_signs.get(g.group, 0 < n_flipped < d):
            return g


def with_unit_gains(model: Any) -> Any:
    """Return a copy of ``model`` in which every gain of the stream's norms is exactly 1; biases are kept."""
    unit = copy.deepcopy(model)
    chart, parameters = chart_of(unit), dict(unit.named_parameters())
    with torch.no_grad():
        for name in chart.names("gain"):
            parameters[name].fill_(1.0 - chart.family.gain_offset)
    return unit


def tiny_model(family: str, generator: torch.Generator, width: int = 32, **config: Any) -> Any:
    """Make a random float32 model of two blocks, with generic gains and biases, in evaluation mode.

    It has grouped-query attention where the family has it, and tied embeddings where that is the family's
    default. Global random state is neither read nor changed.

    Args:
        family: a model type of :data:`MODEL_TYPES`.
        generator: random generator.
        width: width d of the stream, a multiple of 8.
        **config: entries of the configuration to override.

    Raises:
        ValueError: unknown family.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if family not in MODEL_TYPES:
        raise ValueError(f"family={family!r}; allowed: {', '.join(MODEL_TYPES)}")
    sizes: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family == "gpt2":
        sizes |= {"n_inner": sizes.pop("intermediate_size")}
    elif family != "gpt_neox":
        sizes |= {"num_key_value_heads": 2}
    if family in ("gemma2", "gemma3_text", "qwen3", "mistral"):
        sizes |= {"head_dim": 16}
    with torch.random.fork_rng(devices=[]):  # transformers initialises from the global generator
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes | config))
    randomise_parameters(model, generator)
    return model.eval()


@torch.no_grad()
def randomise_parameters(model: Any, generator: torch.Generator) -> None:
    """Redraw every parameter of ``model`` in place.

    Gains are uniform on [0.5, 1.5]; biases and position vectors have standard deviation 0.3; matrices have
    variance 2 / input width, so that no block's contribution is negligible.
    """
    chart = chart_of(model)
    for name, p in model.named_parameters():
        role = chart.rule(name).role
        noise = torch.randn(p.shape, generator=generator)
        if role == "gain":
            value = torch.rand(p.shape, generator=generator) + 0.5 - chart.family.gain_offset
        elif name.endswith("_norm.weight"):  # q/k norms
            value = p.cpu() + 0.2 * noise
        elif p.dim() == 1 or role == "position":
            value = 0.3 * noise
        else:
            value = noise * (0.3 if role == "embed" else (2.0 / min(p.shape)) ** 0.5)
        p.copy_(value)
