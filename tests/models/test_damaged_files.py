"""Damage files at random: only errors of our own may come, which name the folder, and no file changes.

Some hundred cases a test; ``GAUGEPORT_FUZZ=10000`` draws as many, and others each time.
"""

import copy
import json
import os
import shutil
import warnings

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gaugeport.groups import SignedPermutation
from gaugeport.models.checkpoint import chart_of_folder
from gaugeport.models.loading import load_model, load_tokenizer
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_checkpoint
from tiny_gguf import tiny_llama, write_gguf

CASES = os.environ.get("GAUGEPORT_FUZZ")
FUZZ = settings(
    max_examples=int(CASES or 300),
    derandomize=CASES is None,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
G = SignedPermutation.random(32, torch.Generator().manual_seed(1))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    tiny_model("llama", torch.Generator().manual_seed(0)).save_pretrained(folder, max_shard_size="30KB")
    return folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("fuzz") / "tiny.gguf")


def transport(folder):
    out = folder.parent / "out"
    try:
        transport_checkpoint(folder, G, out, workers=1)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def check(path, content, uses, folder):
    """Write damaged bytes to a file, use it, and put the old bytes back."""
    old = path.read_bytes()
    path.write_bytes(content)
    others = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
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
        assert others == {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    finally:
        path.write_bytes(old)


def bytes_damaged(content, data, head):
    """Damage some bytes, most of them in the first ``head``."""
    for _ in range(data.draw(st.integers(1, 3))):
        end = max(1, min(len(content), head if data.draw(st.integers(0, 3)) else len(content)))
        at = data.draw(st.integers(0, end - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "drop", "insert", "zero", "repeat"]))
        n = data.draw(st.integers(1, 16))
        if kind == "flip":
            flipped = bytes([content[at] ^ data.draw(st.integers(1, 255))]) if at < len(content) else b""
            content = content[:at] + flipped + content[at + 1 :]
        else:
            new = {
                "cut": content[:at],
                "drop": content[:at] + content[at + n :],
                "insert": content[:at] + data.draw(st.binary(min_size=n, max_size=n)) + content[at:],
                "zero": content[:at] + bytes(n) + content[at + n :],
                "repeat": content[:at] + content[at : at + n] * 2 + content[at + n :],
            }
            content = new[kind]
        if not content:
            break
    return content


STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 7, 10**6, 2**31, 2**63, 10**30, -(2**63)]),
    st.sampled_from([0.0, -1.5, 1e308, float("nan"), float("inf")]),
    st.sampled_from(["", "llama", "../x", "float32", "int8", "\0", "ä", "x" * 2000]),
    st.sampled_from([[], [0], {}, {"a": None}, [[[]]]]),
)


def json_damaged(content, data):
    """Change, remove or add some values of a JSON object, at any depth."""
    top = json.loads(content)
    for _ in range(data.draw(st.integers(1, 3))):
        here = top
        while True:
            key = data.draw(st.sampled_from(sorted(here)))
            if isinstance(here[key], dict) and here[key] and data.draw(st.booleans()):
                here = here[key]
                continue
            break
        kind = data.draw(st.sampled_from(["change", "change", "remove", "add"]))
        if kind == "remove" and len(here) > 1:
            del here[key]
        else:
            added = data.draw(st.sampled_from(["quantization_config", "text_config", "x"]))
            here[key if kind == "change" else added] = copy.deepcopy(data.draw(STRANGE))
    return json.dumps(top).encode()


@FUZZ
@given(data=st.data())
def test_damaged_safetensors_files(sharded, data):
    path = sorted(sharded.glob("*.safetensors"))[data.draw(st.integers(0, 2))]
    content = path.read_bytes()
    damaged = bytes_damaged(content, data, head=8 + int.from_bytes(content[:8], "little"))
    uses = [lambda: load_model(sharded), lambda: chart_of_folder(sharded), lambda: transport(sharded)]
    check(path, damaged, uses, sharded)


@FUZZ
@given(data=st.data())
def test_damaged_headers_that_are_json_still(sharded, data):
    path = sorted(sharded.glob("*.safetensors"))[data.draw(st.integers(0, 2))]
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json_damaged(content[8 : 8 + length], data)
    damaged = len(header).to_bytes(8, "little") + header + content[8 + length :]
    uses = [lambda: load_model(sharded), lambda: chart_of_folder(sharded), lambda: transport(sharded)]
    check(path, damaged, uses, sharded)


@FUZZ
@given(data=st.data())
def test_damaged_indexes(sharded, data):
    path = sharded / "model.safetensors.index.json"
    content = path.read_bytes()
    damage = data.draw(st.sampled_from([json_damaged, lambda c, d: bytes_damaged(c, d, len(c))]))
    uses = [lambda: load_model(sharded), lambda: transport(sharded)]
    check(path, damage(content, data), uses, sharded)


@FUZZ
@given(data=st.data())
def test_damaged_configs(sharded, data):
    path = sharded / "config.json"
    content = path.read_bytes()
    damage = data.draw(
        st.sampled_from([json_damaged, json_damaged, lambda c, d: bytes_damaged(c, d, len(c))])
    )
    uses = [lambda: load_model(sharded), lambda: chart_of_folder(sharded)]
    check(path, damage(content, data), uses, sharded)


@FUZZ
@given(data=st.data())
def test_damaged_gguf_files(gguf, data):
    damaged = bytes_damaged(gguf.read_bytes(), data, head=9000)
    uses = [lambda: load_model(gguf), lambda: load_tokenizer(gguf)]
    check(gguf, damaged, uses, gguf.parent)
