"""What files of directions may not hold, and where they may not be written."""

import struct

import numpy as np
import pytest
import torch

from direction_files import D, SteeringVector, control_vector, draw, element
from gaugeport.groups import AffineGauge, Orthogonal
from gaugeport.transport import transport_direction_file


def refused(source, error, match, g=None, out="out.pt", **options):
    """Check that a move raises an error, writes nothing, and leaves its source as it is."""
    before = source.read_bytes() if source.is_file() else None
    target = source.parent / "new" / out
    with pytest.raises(error, match=match):
        transport_direction_file(source, g or element(), target, **options)
    assert not target.parent.exists()
    assert before is None or source.read_bytes() == before


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


def test_a_setting_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "v.gguf"
    control_vector(file, direction_3=draw(D))
    content = file.read_bytes()
    hint = content.index(b"controlvector.model_hint") + len(b"controlvector.model_hint") + 4 + 8
    file.write_bytes(content[:hint] + b"\x80" + content[hint + 1 :])
    refused(file, ValueError, r"v.gguf is damaged: its setting controlvector.model_hint cannot", out="o.gguf")


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
