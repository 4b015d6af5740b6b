"""Directions, gauges for them, and the objects and files that hold them."""

import dataclasses

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from gaugeport.groups import AffineGauge, Orthogonal, SignedPermutation

D = 24


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def element(cls=SignedPermutation, d=D, seed=1):
    return cls.random(d, torch.Generator().manual_seed(seed))


elements = pytest.mark.parametrize("cls", [SignedPermutation, Orthogonal, AffineGauge])


def control_vector(file, arch="controlvector", dtype=np.float32, **tensors):
    """Write a control vector as repeng's export_gguf does, with one more key."""
    writer = GGUFWriter(file, arch)
    writer.add_string(f"{arch}.model_hint", "llama")
    writer.add_uint32(f"{arch}.layer_count", len(tensors))
    writer.add_array("tags", ["a", "b"])
    for name, t in tensors.items():
        writer.add_tensor(name.replace("_", "."), t.numpy().astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclasses.dataclass
class SteeringVector:
    """Has the fields of the steering-vectors library's class."""

    layer_activations: dict
    layer_type: str = "decoder_block"


@dataclasses.dataclass
class ControlVector:
    """Has the fields of repeng's class."""

    model_type: str
    directions: dict
