"""Share strings between the tests of the lenses."""

import pytest
import torch

from gaugeport.pipeline.rotation.toy.strings import draw_strings


@pytest.fixture(scope="session")
def rows():
    """Forty labelled strings in rows of 20 tokens."""
    return draw_strings(40, (2, 18), 20, torch.Generator().manual_seed(1))
