"""Damage model folders and GGUF files at random: only errors of our own may come, and no file changes."""

import json
import shutil
import warnings

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from damage import FUZZ, damaged_bytes, damaged_header, damaged_json
from gaugeport.groups import SignedPermutation
from gaugeport.models.checkpoint import chart_of_folder
from gaugeport.models.loading import load_model, load_tokenizer
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_checkpoint
from tiny_gguf import tiny_llama, write_gguf

G = SignedPermutation.random(32, torch.Generator().manual_seed(1))
SIZES = (0, -1, 1, 2, 7, 10**6, 2**31, 2**63, 10**30, 1e308, "float32", "x" * 2000, [], {})
"""What a size in a config may be replaced by."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    tiny_model("llama", torch.Generator().manual_seed(0)).save_pretrained(folder, max_shard_size="30KB")
    return folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("fuzz") / "tiny.gguf")


def transport(folder):
    """Move a folder; whether or not that succeeds, no temporary file may stay."""
    out = folder.parent / "out"
    try:
        transport_checkpoint(folder, G, out, workers=1)
    finally:
        if out.exists():
            assert not list(out.glob(".*"))
            shutil.rmtree(out)


def check(path, content, uses, folder):
    """Put damaged bytes into a file, use it, and put the old bytes back."""
    old = path.read_bytes()
    path.write_bytes(content)
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    try:
        for use in uses:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    use()
                event("used")
            except (ValueError, FileNotFoundError) as e:
                event("refused")
                assert type(e) in (ValueError, FileNotFoundError), repr(e)
                assert str(folder) in str(e), f"{e!r} does not name {folder}"
        assert path.read_bytes() == content
        assert before == {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    finally:
        path.write_bytes(old)


def damaged_sizes(content, data):
    """Replace some values at the top of a JSON object by sizes that no model has."""
    changed = json.loads(content)
    for _ in range(data.draw(st.integers(1, 2))):
        changed[data.draw(st.sampled_from(sorted(changed)))] = data.draw(st.sampled_from(SIZES))
    return json.dumps(changed).encode()


@FUZZ
@given(data=st.data())
def test_damaged_safetensors_files(sharded, data):
    path = sorted(sharded.glob("*.safetensors"))[data.draw(st.integers(0, 2))]
    damage = data.draw(st.sampled_from([damaged_bytes, damaged_header]))
    uses = [lambda: load_model(sharded), lambda: chart_of_folder(sharded), lambda: transport(sharded)]
    check(path, damage(path.read_bytes(), data), uses, sharded)


@FUZZ
@given(data=st.data())
def test_damaged_indexes(sharded, data):
    path = sharded / "model.safetensors.index.json"
    damage = data.draw(st.sampled_from([damaged_bytes, damaged_json]))
    uses = [lambda: load_model(sharded), lambda: transport(sharded)]
    check(path, damage(path.read_bytes(), data), uses, sharded)


@FUZZ
@given(data=st.data())
def test_damaged_configs(sharded, data):
    path = sharded / "config.json"
    damage = data.draw(st.sampled_from([damaged_bytes, damaged_json, damaged_sizes]))
    uses = [lambda: load_model(sharded), lambda: chart_of_folder(sharded), lambda: transport(sharded)]
    check(path, damage(path.read_bytes(), data), uses, sharded)


@FUZZ
@given(data=st.data())
def test_damaged_gguf_files(gguf, data):
    damaged = damaged_bytes(gguf.read_bytes(), data, head=9000)
    uses = [lambda: load_model(gguf), lambda: load_tokenizer(gguf)]
    check(gguf, damaged, uses, gguf.parent)
