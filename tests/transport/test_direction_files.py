"""Directions move from file to file in every format."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from direction_files import D, control_vector, draw, element, elements
from gaugeport.transport import transport_direction, transport_direction_file

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@elements
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_safetensors_keep_names_dtypes_and_metadata(cls, dtype, tmp_path):
    g, file = element(cls), tmp_path / "v.safetensors"
    tensors = {"steer": draw(D, dtype=dtype), "probe": draw(3, D, seed=2, dtype=dtype), "b": torch.ones(1)}
    save_file(tensors, file, metadata={"layer": "9"})
    before = file.read_bytes()
    names = transport_direction_file(file, g, tmp_path / "w.safetensors", invariant=["b"])
    moved = load_file(tmp_path / "w.safetensors")
    assert sorted(names) == ["probe", "steer"] and moved.keys() == tensors.keys()
    for name in names:
        assert moved[name].dtype == dtype and torch.equal(moved[name], transport_direction(tensors[name], g))
        assert not torch.equal(moved[name], tensors[name])
    assert torch.equal(moved["b"], tensors["b"])
    with safe_open(tmp_path / "w.safetensors", "pt") as f:
        assert f.metadata() == {"layer": "9"}
    assert file.read_bytes() == before


@elements
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("shape", [(D,), (3, D), (D, 2), (2, D, 3)])
def test_npy_files_keep_shape_dtype_and_order(cls, dtype, shape, tmp_path):
    g, array = element(cls), draw(*shape, dtype=torch.float64).numpy().astype(dtype)
    for order in "CF":
        np.save(tmp_path / "v.npy", np.array(array, order=order))
        transport_direction_file(tmp_path / "v.npy", g, tmp_path / "w.npy", force=True)
        moved = np.load(tmp_path / "w.npy", allow_pickle=False)
        assert (
            moved.dtype == array.dtype
            and moved.flags.f_contiguous == np.array(array, order=order).flags.f_contiguous
        )
        native = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        expected = transport_direction(native, g, shape.index(D)).numpy()
        assert np.array_equal(moved, expected) and not np.array_equal(moved, array)


CONTENTS = {
    "one tensor": lambda: draw(D),
    "layer_activations of steering-vectors": lambda: {3: draw(D), 7: draw(D, seed=2)},
    "a list": lambda: [draw(D), draw(2, D, seed=3)],
    "nested": lambda: {
        "layer_activations": OrderedDict({5: draw(D)}),
        "layer_type": "decoder_block",
        "n": (1, None),
    },
    "a parameter": lambda: {"w": torch.nn.Parameter(draw(D), requires_grad=False)},
}


def leaves(content):
    if isinstance(content, torch.Tensor):
        return [content]
    if isinstance(content, dict | list | tuple):
        return [t for v in (content.values() if isinstance(content, dict) else content) for t in leaves(v)]
    return []


@elements
@pytest.mark.parametrize("what", CONTENTS)
def test_torch_files_keep_what_surrounds_the_tensors(cls, what, tmp_path):
    g, content = element(cls), CONTENTS[what]()
    torch.save(content, tmp_path / "v.pt")
    names = transport_direction_file(tmp_path / "v.pt", g, tmp_path / "w.pt")
    moved = torch.load(tmp_path / "w.pt", weights_only=True)
    assert type(moved) is type(content) and len(names) == len(leaves(content))
    for before, after in zip(leaves(content), leaves(moved), strict=True):
        assert type(after) is type(before) and after.dtype == before.dtype
        assert torch.equal(after, transport_direction(before, g)) and not torch.equal(after, before)
    if what == "nested":
        assert names == ["layer_activations.5"]
        assert moved["layer_type"] == "decoder_block" and moved["n"] == (1, None)
        assert type(moved["layer_activations"]) is OrderedDict
    if isinstance(content, dict):
        assert list(moved) == list(content)


@elements
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_control_vectors_keep_their_keys(cls, dtype, tmp_path):
    g, tensors = element(cls), {"direction_3": draw(D), "direction_4": draw(D, seed=2)}
    control_vector(tmp_path / "v.gguf", dtype=dtype, **tensors)
    names = transport_direction_file(tmp_path / "v.gguf", g, tmp_path / "w.gguf")
    assert names == ["direction.3", "direction.4"]
    before, after = GGUFReader(tmp_path / "v.gguf"), GGUFReader(tmp_path / "w.gguf")
    for t, u in zip(before.tensors, after.tensors, strict=True):
        expected = transport_direction(torch.from_numpy(t.data.copy()), g).numpy()
        assert u.name == t.name and u.data.dtype == dtype
        assert np.array_equal(u.data, expected) and not np.array_equal(u.data, t.data)
    fields = [
        {n: f.contents() for n, f in r.fields.items() if not n.startswith("GGUF.")} for r in (before, after)
    ]
    assert fields[0] == fields[1] and fields[0]["controlvector.model_hint"] == "llama"


def test_there_and_back_returns_the_file(tmp_path):
    g = element()
    control_vector(tmp_path / "v.gguf", direction_3=draw(D))
    np.save(tmp_path / "v.npy", draw(D).numpy())
    save_file({"v": draw(D)}, tmp_path / "v.safetensors")
    for suffix in ("gguf", "npy", "safetensors"):
        transport_direction_file(tmp_path / f"v.{suffix}", g, tmp_path / f"w.{suffix}")
        transport_direction_file(tmp_path / f"w.{suffix}", g.inverse(), tmp_path / f"x.{suffix}")
        assert (tmp_path / f"x.{suffix}").read_bytes() == (tmp_path / f"v.{suffix}").read_bytes()
        assert (tmp_path / f"w.{suffix}").read_bytes() != (tmp_path / f"v.{suffix}").read_bytes()
