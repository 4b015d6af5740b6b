"""Check that gauge files keep the element and its provenance, and that invalid files raise."""

import json

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gauge_elements import EXACT, LINEAR, gen
from gaugeport.groups import AffineGauge, SignedPermutation, files, load, provenance


def every_element(d=6):
    linear = [cls.random(d, gen(i)) for i, cls in enumerate(LINEAR)]
    affine = [AffineGauge(g, torch.arange(d) / 3, scale) for g in linear for scale in (1.0, 1 / 3)]
    return [*linear, *affine]


def name(g):
    return f"affine-{g.linear.group}-{g.scale:.2g}" if isinstance(g, AffineGauge) else g.group


@pytest.mark.parametrize("g", every_element(), ids=name)
def test_file_round_trip_keeps_element_and_provenance(g, tmp_path):
    path = g.save(tmp_path / "deep" / "g.safetensors", {"model": "tiny", "step": 3})
    back = load(path)
    assert back == g and type(back) is type(g) and hash(back) == hash(g)
    assert load(path, width=6) == g
    assert provenance(path) == {"model": "tiny", "step": 3}
    assert [p.name for p in path.parent.iterdir()] == ["g.safetensors"]


def test_files_from_before_there_were_scales_are_read_and_written_as_then(tmp_path):
    g = AffineGauge(SignedPermutation.random(6, gen(0)), torch.arange(6) / 3)
    tensors = {"perm": g.linear.perm, "sign": g.linear.sign, "shift": g.shift}
    metadata = {"gaugeport_group": "affine", "linear_group": "signed_permutation", "provenance": "{}"}
    save_file(tensors, tmp_path / "old", metadata=metadata)
    assert load(tmp_path / "old") == g and load(tmp_path / "old").scale == 1
    assert load_file(g.save(tmp_path / "new")).keys() == tensors.keys()
    scaled = AffineGauge(g.linear, g.shift, 2.0).save(tmp_path / "scaled")
    assert float(load_file(scaled)["scale"]) == 2.0
    save_file(tensors | {"scale": torch.ones(2)}, tmp_path / "two", metadata=metadata)
    with pytest.raises(ValueError, match="scale must be one positive, finite number"):
        load(tmp_path / "two")


def test_saving_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "g.safetensors"
    first, second = SignedPermutation.random(6, gen(0)), SignedPermutation.random(6, gen(1))
    first.save(path)

    def crash(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("gaugeport.groups.element.save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        second.save(path)
    assert load(path) == first
    with pytest.raises(TypeError):
        second.save(tmp_path / "other.safetensors", {"not json": object()})
    assert not (tmp_path / "other.safetensors").exists()


def test_invalid_files_raise(tmp_path):
    path = SignedPermutation.random(6, gen(0)).save(tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match=r"width 6; expected.*8"):
        load(path, width=8)
    with pytest.raises(FileNotFoundError, match=r"does not exist: .*missing\.safetensors"):
        load(tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError, match="got a folder"):
        load(tmp_path)
    for name, damage in (
        ("cut", path.read_bytes()[:-7]),
        ("text", b"not safetensors at all"),
        ("empty", b""),
    ):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            load(tmp_path / name)
    save_file({"weight": torch.ones(3)}, tmp_path / "model")
    with pytest.raises(ValueError, match=r"not a gauge file.*None; allowed: permutation"):
        load(tmp_path / "model")
    for group, extra in (("permutation", {}), ("affine", {"linear_group": "permutation"}), ("affine", {})):
        save_file({"weight": torch.ones(3)}, tmp_path / "half", metadata={"gaugeport_group": group, **extra})
        with pytest.raises(ValueError, match=rf"not a complete gauge file of group '{group}'"):
            load(tmp_path / "half")
    damaged = {
        "two of one index": {"perm": torch.tensor([0, 0, 1]), "sign": torch.ones(3)},
        "no sign": {"perm": torch.arange(3), "sign": torch.zeros(3)},
        "a dtype that torch cannot sort": {
            "perm": torch.arange(3).to(torch.complex64),
            "sign": torch.ones(3),
        },
    }
    for name, tensors in damaged.items():
        save_file(tensors, tmp_path / name, metadata={"gaugeport_group": "signed_permutation"})
        with pytest.raises(ValueError, match=rf"{name} holds no gauge of group 'signed_permutation'"):
            load(tmp_path / name)
    for text in ("{", "[1]", "[" * 100_000):
        save_file({"a": torch.ones(1)}, tmp_path / "json", metadata={"provenance": text})
        with pytest.raises(ValueError, match=r"the provenance in .*json"):
            provenance(tmp_path / "json")


def acted(path, x):
    """Act with a gauge file on a stream, with safetensors alone."""
    with safe_open(path, "pt") as f:
        tensors, group = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()["gaugeport_group"]
    if "permutation" in group:
        return x[..., tensors["perm"]] * tensors["sign"]
    return x @ tensors["matrix"].T


@pytest.mark.parametrize("cls", LINEAR)
def test_gauges_are_read_without_this_package(cls, tmp_path):
    g, x = cls.random(8, gen(1)), torch.randn(5, 8, generator=gen(2), dtype=torch.float64)
    path = g.save(tmp_path / "g.safetensors", {"model": "tiny"})
    assert torch.allclose(acted(path, x), g.act(x), rtol=0, atol=EXACT)
    assert not torch.allclose(acted(path, x), g.inverse().act(x), rtol=0, atol=1e-1)
    with safe_open(path, "pt") as f:
        assert json.loads(f.metadata()["provenance"]) == {"model": "tiny"}


@pytest.mark.parametrize("scale", [1.0, 1 / 3])
@pytest.mark.parametrize("cls", LINEAR)
def test_affine_gauges_are_read_without_this_package(cls, scale, tmp_path):
    g = AffineGauge(cls.random(8, gen(1)), torch.arange(8) / 3, scale)
    x = torch.randn(5, 8, generator=gen(2), dtype=torch.float64)
    tensors = load_file(g.save(tmp_path / "g.safetensors"))
    moved = x[..., tensors["perm"]] * tensors["sign"] if "perm" in tensors else x @ tensors["matrix"].T
    moved = tensors.get("scale", 1) * moved + tensors["shift"]
    assert torch.allclose(moved, g.act(x), rtol=0, atol=EXACT)


def test_the_documented_lines_read_a_gauge(tmp_path, monkeypatch):
    """The three lines are those of the docstring."""
    lines = [line[4:] for line in files.__doc__.splitlines() if line.startswith("    ") and "=" in line]
    assert len(lines) == 3
    g = SignedPermutation.random(8, gen(1))
    g.save(tmp_path / "g.safetensors")
    monkeypatch.chdir(tmp_path)
    names = {"safetensors": safetensors, "x": torch.randn(5, 8), "weight": torch.rand(8)}
    exec("\n".join(lines), names)
    assert torch.equal(names["moved"], g.act(names["x"]))
    assert torch.equal(names["gains"], g.act_gain(names["weight"]))
    assert not torch.equal(names["moved"], g.inverse().act(names["x"]))
