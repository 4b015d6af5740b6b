"""Check that the structure of a GGUF file is checked before any reader follows it."""

import struct

import pytest

from gaugeport.models.gguf_header import check_gguf
from gaugeport.models.loading import load_model, load_tokenizer
from tiny_gguf import tiny_llama, write_gguf


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def gguf(content, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(content)
    return tmp_path / "tiny.gguf"


def damage(path, at, form, value):
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, value)
    path.write_bytes(content)


def test_a_whole_file_passes(gguf):
    check_gguf(gguf)


def length_of_tokens(content):
    """Where the length of the array of tokens lies."""
    key = b"tokenizer.ggml.tokens"
    return content.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 8


@pytest.mark.parametrize("use", [check_gguf, load_model, load_tokenizer])
@pytest.mark.parametrize("count", [2**62, 10**6])
def test_lengths_beyond_the_file_are_refused_at_once(gguf, content, use, count):
    damage(gguf, length_of_tokens(content), "<Q", count)
    with pytest.raises(ValueError, match=rf"{gguf} is damaged.*{count} entries follow, for which it is too"):
        use(gguf)


@pytest.mark.parametrize(
    ("at", "form", "value", "message"),
    [
        (0, "<I", 7, "does not begin with GGUF"),
        (4, "<I", 9, "its version is 9"),
        (8, "<Q", 2**60, "tensors follow, for which it is too short"),
        (16, "<Q", 2**60, "values follow, for which it is too short"),
        (24, "<Q", 2**60, "bytes of text follow, for which it is too short"),
    ],
)
def test_damaged_starts_are_refused(gguf, at, form, value, message):
    damage(gguf, at, form, value)
    with pytest.raises(ValueError, match=message):
        load_model(gguf)


def test_truncated_files_are_refused(gguf, content):
    for keep in (len(content) - 40, len(content) // 2, 500, 10, 0):
        gguf.write_bytes(content[:keep])
        with pytest.raises(ValueError, match=rf"{gguf} is damaged or not a GGUF file"):
            load_model(gguf)


@pytest.mark.parametrize("size", ["embedding_length", "feed_forward_length"])
def test_a_model_larger_than_its_tensors_is_refused(gguf, content, size):
    key = f"llama.{size}".encode()
    damage(gguf, content.index(key) + len(key) + 4, "<I", 2**24)
    with pytest.raises(ValueError, match=rf"{gguf} is damaged: it describes a model of \d{{8,}} parameters"):
        load_model(gguf)


def test_more_blocks_than_tensors_are_refused(gguf, content):
    key = b"llama.block_count"
    damage(gguf, content.index(key) + len(key) + 4, "<I", 10**9)
    with pytest.raises(ValueError, match=r"it says llama\.block_count=1000000000, and has 20 tensors"):
        load_model(gguf)
