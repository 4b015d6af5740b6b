"""Define the optimizers of table c4: what trains which parameters, and how gradients are clipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart

Parts = dict[str, list[str]]
"""Name of a transport rule -> names of the parameters that its optimizer trains."""


@dataclass(frozen=True)
class Recipe:
    """How one row of the table is trained. Of two rules, the second trains what the first does not."""

    parts: Mapping[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = field(hash=False)
    """Name of a rule in ``OPTIMIZERS`` -> function that builds its optimizer; one rule or two."""
    splits: str | None = None
    """What the first of two rules trains: all ``matrices``, or those of the ``blocks``."""
    momentum: bool = True
    """Whether any state has a sign."""
    clip: str | None = None
    """How gradients are clipped: ``norm``, ``value`` or not at all."""
    dtype: str = "float64"
    """Dtype to measure in. Muon rounds its updates to bfloat16, so it is measured in float32: in float64 this
    rounding hides most differences and magnifies a few, so the noise floor is erratic."""


def _sgd(parameters: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, **options)


def _adam(parameters: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2, **options)


def _muon(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Muon(parameters, lr=2e-2)


def _transformers_adafactor(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=1e-2, beta1=0.9, relative_step=False)


RECIPES: dict[str, Recipe] = {
    "adam": Recipe({"adam": _adam}),
    "adam_amsgrad": Recipe({"adam": lambda p: _adam(p, amsgrad=True)}),
    "adamw": Recipe({"adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1)}),
    "lion": Recipe({"lion": lambda p: Lion(p, lr=1e-3, weight_decay=0.1)}),
    "adafactor_torch": Recipe({"adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2)}, momentum=False),
    "adafactor_transformers": Recipe({"adafactor": _transformers_adafactor}),
    "sgd": Recipe({"sgd": lambda p: _sgd(p, weight_decay=0.01)}),
    "sgd_nesterov": Recipe({"sgd": lambda p: _sgd(p, nesterov=True)}),
    "sgd_clip_norm": Recipe({"sgd": _sgd}, clip="norm"),
    "sgd_clip_value": Recipe({"sgd": _sgd}, clip="value"),
    "muon_sgd": Recipe({"muon": _muon, "sgd": _sgd}, splits="matrices", dtype="float32"),
    "muon_adam": Recipe({"muon": _muon, "adam": _adam}, splits="blocks", dtype="float32"),
}
"""``muon_sgd``: Muon on every matrix, embeddings included, and SGD on the rest. ``muon_adam``: Muon on the
matrices of the blocks and Adam on embeddings and gains, the common use of Muon."""

CLIP_NORM = 0.5
"""Largest norm of all gradients; low enough to clip at every step of these tiny models."""
CLIP_VALUE = 1e-3
"""Largest absolute entry of a gradient; low enough to clip at every step."""


def split_parameters(recipe: Recipe, chart: Chart, model: nn.Module) -> Parts:
    """Return the names of the parameters that each rule's optimizer trains, in the model's order."""
    names = [name for name, _ in model.named_parameters()]
    if recipe.splits is None:
        return dict.fromkeys(recipe.parts, names)
    roles = (
        ("read", "write") if recipe.splits == "blocks" else ("read", "write", "embed", "unembed", "position")
    )
    first = [n for n in names if chart.rule(n).role in roles]
    return dict(zip(recipe.parts, (first, [n for n in names if n not in first]), strict=True))


def build_optimizers(recipe: Recipe, parts: Parts, model: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Return a fresh optimizer for each rule, over its parameters of ``model``."""
    parameters = dict(model.named_parameters())
    return {rule: recipe.parts[rule]([parameters[n] for n in names]) for rule, names in parts.items()}


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), which is in neither torch nor transformers.

    ``c = β1 m + (1-β1) g``; ``θ -= lr (sign(c) + weight_decay θ)``; ``m = β2 m + (1-β2) g``.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            (b1, b2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                update = (b1 * m + (1 - b1) * p.grad).sign()
                p.sub_(lr * (update + group["weight_decay"] * p))
                m.mul_(b2).add_(p.grad, alpha=1 - b2)
