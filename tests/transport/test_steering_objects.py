"""Steering and control vectors of other libraries move layer by layer."""

import numpy as np
import pytest
import torch

from direction_files import ControlVector, D, SteeringVector, draw, element, elements
from gaugeport.groups import Orthogonal
from gaugeport.transport import transport_direction, transport_steering_vector


@elements
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_steering_vectors_and_control_vectors_move_layer_by_layer(cls, dtype):
    g, vectors = element(cls), {3: draw(D, dtype=dtype), -1: draw(D, seed=2, dtype=dtype)}
    for vector in (
        SteeringVector(vectors, "self_attn"),
        ControlVector("llama", {n: v.numpy() for n, v in vectors.items()}),
    ):
        moved = transport_steering_vector(vector, g)
        assert type(moved) is type(vector) and moved is not vector
        if isinstance(vector, ControlVector):
            assert moved.model_type == "llama" and isinstance(moved.directions[3], np.ndarray)
        else:
            assert moved.layer_type == "self_attn"
        after = moved.directions if isinstance(vector, ControlVector) else moved.layer_activations
        assert list(after) == [3, -1]
        for layer, v in vectors.items():
            new = torch.as_tensor(after[layer])
            assert (
                new.dtype == dtype and torch.equal(new, transport_direction(v, g)) and not torch.equal(new, v)
            )


def test_other_objects_are_refused():
    g, rotation = element(), element(Orthogonal)
    for vector in (draw(D), {"directions": {3: draw(D)}}, SteeringVector(draw(D)), ControlVector, None):
        with pytest.raises(TypeError, match=r"expected a SteeringVector .*transport_direction moves tensors"):
            transport_steering_vector(vector, g)
    with pytest.raises(TypeError, match=r"got SteeringVector .*transport_steering_vector"):
        transport_direction(SteeringVector({}), g)
    with pytest.raises(TypeError, match="tensor or numpy array for each layer, got list"):
        transport_steering_vector(SteeringVector({3: [1.0]}), g)
    with pytest.raises(ValueError, match="expected the gauge's width 24, got 23"):
        transport_steering_vector(ControlVector("llama", {3: np.zeros(23, np.float32)}), g)
    with pytest.raises(ValueError, match="'post_attention_layernorm' is behind the gain"):
        transport_steering_vector(SteeringVector({3: draw(D)}, "post_attention_layernorm"), rotation)
