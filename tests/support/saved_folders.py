"""Folders of tiny models, gauges to move them by, and what the folders hold."""

import torch
from safetensors.torch import load_file

from gaugeport.pipeline.measures.gauge_groups import tiny_model

D = 32


def tiny(family, width=D, **config):
    return tiny_model(family, torch.Generator().manual_seed(0), width, **config)


def element(cls, seed=1, d=D):
    return cls.random(d, torch.Generator().manual_seed(seed))


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def tensors_of(folder):
    return {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def bits(t):
    return t.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name, t in a.items():
        assert t.dtype == b[name].dtype and torch.equal(bits(t), bits(b[name])), name


def read_bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
