"""Test the rules for the states of optimizers, and the one optimizer that torch does not have."""

import torch

from gaugeport.pipeline.measures.optimizer_recipes import Lion
from gaugeport.transport.optimizer_rules import state_axes, state_shapes


def test_axes_and_shapes_of_factored_states():
    axes = ("none", "vector")
    assert state_axes("vector", axes, 2) == axes and state_axes("gain", axes, 2) == ("none", "gain")
    assert state_axes("row", axes, 1) == ("none",) and state_axes("col", axes, 1) == ("gain",)
    assert state_axes("row", axes, 2) == ("none", "none") and state_axes("col", axes, 2) == ("none", "gain")
    assert state_axes("row", axes[::-1], 2) == ("gain", "none")
    assert state_axes("col", axes[::-1], 1) == ("none",)
    assert state_shapes("row", (3, 5)) == [(3, 1), (3,)] and state_shapes("col", (3, 5)) == [(1, 5), (5,)]
    assert state_shapes("none", (3,)) == [] and state_shapes("gain", (3,)) == [(3,)]


def test_lion_follows_its_paper():
    """Two steps on two weights, computed by hand from Algorithm 2 of arXiv 2302.06675."""
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Lion([p], lr=0.1, betas=(0.9, 0.5), weight_decay=0.2)
    p.grad = torch.tensor([3.0, -1.0])
    optimizer.step()  # m = 0: sign(0.1 g) = (1, -1); then θ -= 0.1 (sign + 0.2 θ) and m = g/2
    assert torch.allclose(p.detach(), torch.tensor([0.88, -1.86]))
    p.grad = torch.tensor([-14.0, 1.0])
    optimizer.step()  # 0.9 m + 0.1 g = (1.35 - 1.4, -0.45 + 0.1): signs (-1, -1)
    assert torch.allclose(p.detach(), torch.tensor([0.88 + 0.1 - 0.0176, -1.86 + 0.1 + 0.0372]))
    assert torch.allclose(optimizer.state[p]["exp_avg"], torch.tensor([-6.25, 0.25]))
