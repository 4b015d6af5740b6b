"""Check that gauge files keep the element and its provenance, and that invalid files raise."""

import pytest
import torch
from safetensors.torch import save_file

from gauge_elements import LINEAR, gen
from gaugeport.groups import (
    AffineGauge,
    SignedPermutation,
    load,
    provenance,
)


def every_element(d=6):
    linear = [cls.random(d, gen(i)) for i, cls in enumerate(LINEAR)]
    return [*linear, *(AffineGauge(g, torch.arange(d) / 3) for g in linear)]


@pytest.mark.parametrize(
    "g", every_element(), ids=lambda g: g.group + ("" if g.group != "affine" else f"-{g.linear.group}")
)
def test_file_round_trip_keeps_element_and_provenance(g, tmp_path):
    path = g.save(tmp_path / "deep" / "g.safetensors", {"model": "tiny", "step": 3})
    back = load(path)
    assert back == g and type(back) is type(g) and hash(back) == hash(g)
    assert load(path, width=6) == g
    assert provenance(path) == {"model": "tiny", "step": 3}
    assert [p.name for p in path.parent.iterdir()] == ["g.safetensors"]


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
