"""Test that directions move from file to file in every format, and what their files may not hold."""

import dataclasses
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gaugeport.groups import AffineGauge, Orthogonal, SignedPermutation
from gaugeport.transport import transport_direction, transport_direction_file, transport_steering_vector

D = 24


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def element(cls=SignedPermutation, d=D, seed=1):
    return cls.random(d, torch.Generator().manual_seed(seed))


def refused(source, error, match, g=None, out="out.pt", **options):
    """Check that a move raises an error, writes nothing, and leaves its source as it is."""
    before = source.read_bytes() if source.is_file() else None
    target = source.parent / "new" / out
    with pytest.raises(error, match=match):
        transport_direction_file(source, g or element(), target, **options)
    assert not target.parent.exists()
    assert before is None or source.read_bytes() == before


elements = pytest.mark.parametrize("cls", [SignedPermutation, Orthogonal, AffineGauge])
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


# what is refused


def test_tensors_that_are_no_directions_are_named(tmp_path):
    file = tmp_path / "v.pt"
    for tensors, message in (
        (
            {"steer": draw(D), "bias": draw(1)},
            r"v.pt: bias \(torch.float32 of shape \(1,\)\) has no axis of the gauge's width 24; .*invariant=",
        ),
        ({"steer": draw(D - 1)}, "steer .* has no axis of the gauge's width 24"),
        ({"map": draw(D, D)}, r"axes \[0, 1\] of map .* have the gauge's width 24; say which .* axis="),
        ({"steer": torch.arange(D)}, "steer .*int64.* cannot move as a direction: expected plain floats"),
        (
            {"steer": draw(D).to(torch.float8_e4m3fn)},
            "cannot move as a direction: expected plain floats of 16 bits",
        ),
        ({"steer": draw(D).to_sparse()}, "cannot move as a direction"),
        ({"steer": torch.empty(D, device="meta")}, "cannot move as a direction"),
        ({3: draw(D), "3": draw(D)}, "two tensors are named 3"),
        ({"layer": 3}, "expected at least one direction to move"),
        ([], "expected at least one direction to move"),
    ):
        torch.save(tensors, file)
        refused(file, ValueError, message)
    torch.save({"map": draw(D, D), "v": draw(5, D)}, file)
    transport_direction_file(file, element(), tmp_path / "w.pt", axis=-1)
    moved = torch.load(tmp_path / "w.pt", weights_only=True)
    assert torch.equal(moved["map"], element().act(torch.load(file, weights_only=True)["map"], 1))
    refused(file, ValueError, r"v .* has no axis 0 of the gauge's width 24", axis=0)
    refused(file, ValueError, r"has no axis 2 of the gauge's width", axis=2)
    refused(file, ValueError, r"invariant names w; the file holds map, v", invariant=["w"])


def test_damaged_files_and_python_objects_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(tmp_path / "o.npy", ValueError, "o.npy cannot be read as a .npy file of numbers", out="o.npy")
    np.save(tmp_path / "c.npy", np.zeros((2, D), dtype="datetime64[s]"))
    refused(tmp_path / "c.npy", ValueError, "c.npy cannot be read as a .npy file of numbers", out="o.npy")
    np.savez(tmp_path / "z.npz", v=np.zeros(D))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    refused(tmp_path / "z.npy", ValueError, "z.npy cannot be read as a .npy file", out="o.npy")
    huge = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (24, 100000000000), }"
    (tmp_path / "h.npy").write_bytes(huge.ljust(127) + b"\n")
    refused(tmp_path / "h.npy", ValueError, "h.npy cannot be read as a .npy file", out="o.npy")
    torch.save(SteeringVector({3: draw(D)}), tmp_path / "s.pt")
    refused(tmp_path / "s.pt", ValueError, r"s.pt cannot be read as plain tensors .*Python objects")
    itself = {}
    itself["a"] = itself
    torch.save(itself, tmp_path / "r.pt")
    refused(
        tmp_path / "r.pt", ValueError, "r.pt: its dicts and lists are nested too deep, or hold themselves"
    )
    for suffix in (".safetensors", ".pt", ".gguf", ".npy"):
        (tmp_path / f"d{suffix}").write_bytes(b"damaged")
        refused(tmp_path / f"d{suffix}", ValueError, rf"d\{suffix}", out=f"o{suffix}")
        refused(tmp_path / f"none{suffix}", FileNotFoundError, "does not exist", out=f"o{suffix}")
    (tmp_path / "v.csv").write_text("1,2")
    refused(
        tmp_path / "v.csv",
        ValueError,
        r"no reader for files named \*.csv; allowed: .safetensors",
        out="o.csv",
    )


def test_other_gguf_files_are_refused(tmp_path):
    control_vector(tmp_path / "model.gguf", "llama", direction_3=draw(D))
    refused(tmp_path / "model.gguf", ValueError, "expected a control vector .*, got 'llama'", out="o.gguf")
    control_vector(tmp_path / "ints.gguf", dtype=np.int32, direction_3=draw(D))
    refused(tmp_path / "ints.gguf", ValueError, r"quantized tensors: direction.3 \(I32\)", out="o.gguf")


def test_a_damaged_length_is_no_endless_loop(tmp_path):
    file = tmp_path / "v.gguf"
    control_vector(file, direction_3=draw(D))
    content = bytearray(file.read_bytes())
    key = struct.pack("<Q", len(b"tags")) + b"tags"
    struct.pack_into("<Q", content, content.index(key) + len(key) + 8, 2**40)  # after two type numbers
    file.write_bytes(content)
    refused(file, ValueError, r"v.gguf is damaged .*says that 1099511627776 entries follow", out="o.gguf")


def test_the_result_is_a_new_file_of_the_same_format(tmp_path):
    file = tmp_path / "v.pt"
    torch.save(draw(D), file)
    refused(file, ValueError, r"expected a file named \*.pt", out="o.npy")
    with pytest.raises(ValueError, match="expected a place apart"):
        transport_direction_file(file, element(), file, force=True)
    transport_direction_file(file, element(), tmp_path / "w.pt")
    first = (tmp_path / "w.pt").read_bytes()
    with pytest.raises(FileExistsError, match=r"w.pt exists already.*force=True"):
        transport_direction_file(file, element(seed=2), tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == first
    transport_direction_file(file, element(seed=2), tmp_path / "w.pt", force=True)
    assert (tmp_path / "w.pt").read_bytes() != first
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(FileExistsError, match=r"folder.pt is a folder"):
        transport_direction_file(file, element(), tmp_path / "folder.pt", force=True)
    (tmp_path / "link.pt").symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(FileExistsError, match=r"link.pt is a link"):
        transport_direction_file(file, element(), tmp_path / "link.pt", force=True)
    with pytest.raises(TypeError, match="expected a gauge element"):
        transport_direction_file(file, "g.safetensors", tmp_path / "x.pt")


# sites


def test_behind_a_gain_only_signed_permutations_act(tmp_path):
    torch.save({"layer_activations": {3: draw(D)}, "layer_type": "input_layernorm"}, tmp_path / "s.pt")
    torch.save(draw(D), tmp_path / "v.pt")
    refused(
        tmp_path / "s.pt",
        ValueError,
        "'input_layernorm' is behind the gain .*fold_gains",
        element(Orthogonal),
    )
    refused(
        tmp_path / "v.pt",
        ValueError,
        "'model.norm' is behind the gain",
        element(AffineGauge),
        hook="model.norm",
    )
    refused(
        tmp_path / "v.pt", ValueError, "'blocks.1.attn.hook_z' is not a site on", hook="blocks.1.attn.hook_z"
    )
    refused(tmp_path / "v.pt", ValueError, "'layer nine' is not a site on", hook="layer nine")
    transport_direction_file(tmp_path / "s.pt", element(), tmp_path / "w.pt")
    transport_direction_file(tmp_path / "v.pt", element(), tmp_path / "x.pt", hook="model.norm")
    transport_direction_file(tmp_path / "v.pt", element(Orthogonal), tmp_path / "y.pt", hook="block9")


# objects


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
