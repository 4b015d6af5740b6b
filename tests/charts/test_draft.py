"""A drafted chart has the axes of the declared one, for every architecture that is known."""

from dataclasses import replace

import pytest
import torch

from gaugeport.charts.chart import chart_by, chart_of
from gaugeport.charts.draft import draft
from gaugeport.charts.draft_axes import block_axes, module_axes
from gaugeport.charts.logit_change import change_under, random_tokens
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_drafted_axes_are_the_declared_ones(model_type):
    model = tiny_model(model_type, torch.Generator().manual_seed(0)).float()
    declared, found = chart_of(model), draft(model)
    drafted = chart_by(model, found.family)
    assert {n: drafted.axes(n) for n in drafted.rules} == {n: declared.axes(n) for n in declared.rules}
    assert {n: drafted.rule(n).role for n in drafted.rules} == {
        n: declared.rule(n).role for n in declared.rules
    }
    assert found.exact and found.notes == ()
    assert (found.family.norm, found.family.post_norm, found.family.gain_offset) == (
        declared.family.norm, declared.family.post_norm, declared.family.gain_offset,
    )  # fmt: skip
    for name, rule in declared.rules.items():
        assert drafted.rule(name).norm_of(name) == rule.norm_of(name), name
    neurons = {(n, a) for p, a in declared.family.neurons for n in _matching(declared, p)}
    assert {(n, a) for p, a in found.family.neurons for n in _matching(drafted, p)} == neurons


def _matching(chart, pattern):
    from gaugeport.charts.rules import matches

    return [name for name in chart.rules if matches(pattern, name)]


def test_a_wrong_axis_changes_the_logits():
    """The check on logits can fail: one writer declared as a reader is told apart."""
    model = tiny_model("llama", torch.Generator().manual_seed(0)).float()
    found, generator = draft(model), torch.Generator().manual_seed(1)
    rules = tuple(
        replace(rule, axes=("none", "vector")) if rule.pattern.endswith("o_proj.weight") else rule
        for rule in found.family.rules
    )
    wrong, work = chart_by(model, replace(found.family, rules=rules)), tiny_model("llama", generator).float()
    work.load_state_dict(model.state_dict())
    g = SignedPermutation.random(wrong.width, generator)
    assert change_under(wrong, model, work, random_tokens(model, generator), g) > 0.1 > found.inside


def test_a_norm_is_told_from_a_linear_layer():
    g = SignedPermutation.random(8, torch.Generator().manual_seed(0))
    assert module_axes(torch.nn.RMSNorm(8), g) == {"weight": ("gain",)}
    assert module_axes(torch.nn.LayerNorm(8), g) is None  # signs do not commute with it
    assert module_axes(torch.nn.Linear(8, 8), g) is None


def test_too_many_open_axes_are_refused():
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(6))

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(x)
            return x

    g = SignedPermutation.random(8, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="combinations of axes are open in Wide"):
        block_axes(Wide(), torch.randn(1, 2, 8), ((), {}), g)
