"""Edits of the stream."""

import pytest
import torch

from gaugeport.streams.interventions import ablating
from tiny_models import gen


def test_ablation_removes_a_direction_up_to_rounding():
    x, v = torch.randn(7, 32, generator=gen()), torch.randn(32, generator=gen(1))
    for dtype, rounding in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3)):  # of the result alone
        left = ablating(v.to(dtype))(x.to(dtype))
        assert left.dtype == dtype
        wide = x.to(dtype).double() - (x.to(dtype).double() @ v.to(dtype).double()).outer(
            v.to(dtype).double()
        ) / (v.to(dtype).double().square().sum())
        assert float((left.double() - wide).abs().max() / wide.abs().max()) <= rounding
    with pytest.raises(ValueError, match=r"direction of positive, finite length, got 0\.0"):
        ablating(torch.zeros(32))
