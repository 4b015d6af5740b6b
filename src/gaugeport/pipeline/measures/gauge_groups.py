"""Table a1: which group is the exact residual gauge of each architecture family, measured inside and outside."""

from __future__ import annotations

import copy
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
"""Every architecture of the table: all that are language models, which paper B's toy is not."""

ELEMENTS: tuple[type[SignedPermutation | Orthogonal], ...] = (
    Permutation,
    GlobalSignPermutation,
    SignedPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
)


def gauge_group_rows(family: str, seed: int, dtype: str = "float64", width: int = 32) -> list[dict[str, Any]]:
    """Relative logit changes of a tiny random model of ``family`` under a random element of each group.

    ``family`` is a model type of :data:`MODEL_TYPES`. Three charts: ``raw`` (random gains and biases in place),
    ``folded`` (the same model after ``fold_gains``; left out for post-norm families) and ``degenerate`` (every gain 1,
    as freshly initialised). Each record has ``chart, group, metric, value, yardstick, theory``: ``value`` is
    max|Δlogits| / std(logits), ``yardstick`` what reordering (and, for rotations, rounding) may cost, and ``theory``
    is ``"exact"`` or ``"broken"`` by the group of the chart, never by the measurement. In float64 the norms compute
    in float64 too.

    Raises ``ValueError`` for an unknown family or dtype. Source: DESIGN §1, second table.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"unknown dtype {dtype!r}; allowed: float32, float64")
    generator = torch.Generator().manual_seed(seed)
    raw = tiny_model(family, generator, width).to(getattr(torch, dtype))
    chart = chart_of(raw)
    charts = {"raw": raw, "degenerate": with_unit_gains(raw)}
    if chart.foldable:
        charts["folded"] = fold_gains(raw)
    tokens = random_tokens(raw, generator)
    records: list[dict[str, Any]] = []
    really = norms_in_float64 if dtype == "float64" else nullcontext
    for name, model in charts.items():
        here, work = chart_of(model), copy.deepcopy(model)
        exact = exact_group(here, name)
        with really(model), really(work):
            for cls in ELEMENTS:
                g = generic_element(cls, width, generator)
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
    """The exact group by theory. Unit gains make every rotation exact, post-norms or not: there is no gain to meet."""
    if name == "degenerate":
        return "mean_preserving_orthogonal" if chart.norm == "layer" else "orthogonal"
    return chart.group


def generic_element(
    cls: type[SignedPermutation | Orthogonal], d: int, generator: torch.Generator
) -> SignedPermutation | Orthogonal:
    """A random element of ``cls`` that is in none of the smaller groups of the table, hence not the identity."""
    while True:
        g = cls.random(d, generator)
        if isinstance(g, Orthogonal):
            return g  # almost surely generic
        flipped = int((g.sign < 0).sum())
        moved = not torch.equal(g.perm, torch.arange(d))
        signs = {"permutation": flipped == 0, "global_sign_permutation": flipped == d}.get(
            g.group, 0 < flipped < d
        )
        if moved and signs:
            return g


def with_unit_gains(model: Any) -> Any:
    """A copy of ``model`` whose norms on the stream have every gain exactly 1; biases stay."""
    unit = copy.deepcopy(model)
    chart, parameters = chart_of(unit), dict(unit.named_parameters())
    with torch.no_grad():
        for name in chart.names("gain"):
            parameters[name].fill_(1.0 - chart.family.gain_offset)
    return unit


def tiny_model(family: str, generator: torch.Generator, width: int = 32, **config: Any) -> Any:
    """A random float32 model of two blocks in evaluation mode, with generic gains and biases; no global random state.

    ``width`` is d, a multiple of 8; ``config`` overrides entries of the configuration. Grouped-query attention where
    the family has it, embeddings tied where the family's default is. Raises ``ValueError`` for an unknown ``family``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if family not in MODEL_TYPES:
        raise ValueError(f"unknown family {family!r}; allowed: {', '.join(MODEL_TYPES)}")
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
    """Redraw every parameter: gains uniform on [0.5, 1.5], biases and position vectors of size 0.3, matrices so that
    no block's contribution is negligible (variance 2/in-width)."""
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
