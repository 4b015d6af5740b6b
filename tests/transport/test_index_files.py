"""Test index lists in files: what is read, what is written, and what is refused."""

import json

import numpy as np
import pytest
import torch

from gaugeport.groups import AffineGauge, Orthogonal, SignedPermutation
from gaugeport.transport import transport_indices, transport_indices_file

D = 40
G = SignedPermutation.random(D, torch.Generator().manual_seed(1))
LIST = [7, 3, 39, 0]


def as_json(indices, g=G, kept=None):
    moved = transport_indices(indices, g, kept=kept)
    return {"index": moved.index.tolist(), "sign": moved.sign.tolist(), "dropped": moved.dropped.tolist()}


def write(path, content):
    if path.suffix == ".npy":
        np.save(path, content)
    else:
        path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[7, 3, 39, 0]"),
        ("a.txt", "7\n3\n\n 39 \n0\n"),
        ("a.txt", "\ufeff7\r\n3\r\n39\r\n0"),
        ("a.npy", np.array(LIST)),
        ("a.npy", np.array(LIST, dtype=np.uint8)),
        ("a.npy", np.array(LIST, dtype=">i4")),
    ],
)
def test_lists_are_written_with_their_signs(name, content, tmp_path):
    source = write(tmp_path / name, content)
    before = source.read_bytes()
    result = transport_indices_file(source, G, tmp_path / "b.json")
    assert result == json.loads((tmp_path / "b.json").read_text()) == as_json(LIST)
    assert result["index"] != LIST and -1 in result["sign"] and source.read_bytes() == before
    # the moved coordinate has the same value, up to the sign that is written beside it
    x = torch.randn(D, generator=torch.Generator().manual_seed(2))
    moved = G.act(x)[result["index"]] * torch.tensor(result["sign"])
    assert torch.equal(moved, x[LIST]) and not torch.equal(G.act(x)[result["index"]], x[LIST])


def test_lists_by_name_stay_by_name(tmp_path):
    source = write(tmp_path / "a.json", json.dumps({"anger": LIST, "": [5], "none": []}))
    result = transport_indices_file(source, AffineGauge(G, torch.zeros(D)), tmp_path / "b.json")
    assert result == {"anger": as_json(LIST), "": as_json([5]), "none": as_json([])}
    assert json.loads((tmp_path / "b.json").read_text()) == result


def test_coordinates_that_are_not_trusted_are_dropped(tmp_path):
    kept = torch.arange(D) % 2 == 0
    source = write(tmp_path / "a.json", json.dumps(list(range(D))))
    result = transport_indices_file(source, G, tmp_path / "b.json", kept=kept)
    assert result == as_json(list(range(D)), kept=kept) and len(result["dropped"]) == D // 2


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.json", "[1, 2", ValueError, "a.json: expected JSON"),
        ("a.json", "[" * 100_000, ValueError, "a.json: expected JSON"),
        ("a.json", "[1.0]", TypeError, r"a.json: indices: expected integers, got \[1.0\]"),
        ("a.json", "[true]", TypeError, "expected integers"),
        ("a.json", "[NaN]", TypeError, "expected integers"),
        ("a.json", "3", TypeError, "a.json: indices: expected a torch tensor or a list"),
        ("a.json", '{"anger": {"index": [1]}}', TypeError, "a.json: anger: indices: expected"),
        ("a.json", '{"anger": [1, 1]}', ValueError, r"a.json: anger: indices appear more than once: \[1\]"),
        ("a.json", "[40]", ValueError, r"a.json: indices out of range: \[40\]; allowed: 0 to 39"),
        ("a.json", "[-1]", ValueError, "indices out of range"),
        ("a.json", "[1000000000000000000000000]", ValueError, "indices out of range"),
        ("a.txt", "1\ntwo", ValueError, "a.txt: expected one integer a line"),
        ("a.txt", "1.5", ValueError, "a.txt: expected one integer a line"),
        ("a.npy", np.array([1.0]), TypeError, "a.npy: indices: expected integers"),
        ("a.npy", np.array([[1]]), ValueError, "a.npy: indices: expected one list"),
        ("a.npy", np.array([2**63], dtype=np.uint64), ValueError, "out of range"),
        ("a.csv", "1,2", ValueError, r"a.csv: no reader for files named \*.csv; allowed: .json, .txt, .npy"),
    ],
)
def test_what_is_no_list_of_indices_is_refused(name, content, error, message, tmp_path):
    source = write(tmp_path / name, content)
    with pytest.raises(error, match=message):
        transport_indices_file(source, G, tmp_path / "new" / "b.json")
    assert not (tmp_path / "new").exists()


def test_gauges_and_places_that_do_not_fit_are_refused(tmp_path):
    source = write(tmp_path / "a.json", "[1]")
    with pytest.raises(ValueError, match=r"a.json: a gauge of group 'orthogonal' mixes coordinates"):
        transport_indices_file(source, Orthogonal.identity(D), tmp_path / "b.json")
    with pytest.raises(ValueError, match="kept: expected a bool tensor of 40 entries"):
        transport_indices_file(source, G, tmp_path / "b.json", kept=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected a file named \*.json"):
        transport_indices_file(source, G, tmp_path / "b.txt")
    with pytest.raises(ValueError, match="expected a place apart"):
        transport_indices_file(source, G, source, force=True)
    with pytest.raises(TypeError, match="expected a gauge element"):
        transport_indices_file(source, None, tmp_path / "b.json")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        transport_indices_file(tmp_path / "none.json", G, tmp_path / "b.json")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    transport_indices_file(source, G, tmp_path / "b.json")
    with pytest.raises(FileExistsError, match=r"b.json exists already"):
        transport_indices_file(source, G.inverse(), tmp_path / "b.json")
    transport_indices_file(source, G.inverse(), tmp_path / "b.json", force=True)
    assert json.loads((tmp_path / "b.json").read_text()) == as_json([1], G.inverse())
