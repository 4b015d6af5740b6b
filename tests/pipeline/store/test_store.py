"""Test that the store builds a stage once, completely or not at all, also with several processes."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gaugeport.pipeline.store.store import Store, digest, digest_files, manifest
from gaugeport.utils.files import write_json


def test_digest_depends_on_content_not_on_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    with pytest.raises(ValueError):
        digest({"a": float("nan")})


def test_stage_is_built_once_and_reused(tmp_path):
    store, built = Store(tmp_path), []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "x.txt").write_text("x")

    first = store.ensure("thing", {"k": 1}, build)
    again = store.ensure("thing", {"k": 1}, build)
    assert first == again and len(built) == 1
    assert manifest(first)["config"] == {"k": 1} and manifest(first)["files"] == {"x.txt": 1}
    assert not store.path("thing", {"k": 2}).exists()


def test_tensors_of_a_stage_are_readable_by_those_whom_the_umask_allows(tmp_path, group_may_read):
    def build(folder):
        save_file({"w": torch.ones(2)}, folder / "w.safetensors")

    built = Store(tmp_path).ensure("model", {"a": 1}, build)
    assert (built / "w.safetensors").stat().st_mode & 0o777 == 0o640


def test_failed_build_leaves_nothing_under_final_name(tmp_path):
    store = Store(tmp_path)

    def build(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        store.ensure("thing", {}, build)
    assert not store.path("thing", {}).exists()


@pytest.mark.parametrize("resumable", [True, False])
def test_only_resumable_builds_keep_partial_files(tmp_path, resumable):
    store, at_start = Store(tmp_path), []

    def build(folder: Path) -> None:
        at_start.append(sorted(p.name for p in folder.iterdir()))
        (folder / "left.txt").write_text("left")
        if len(at_start) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure("thing", {}, build, resumable=resumable)
    store.ensure("thing", {}, build, resumable=resumable)
    assert at_start == [[], ["left.txt"] if resumable else []]


@pytest.mark.parametrize("damage", ["truncate", "delete", "no manifest", "half a manifest"])
def test_damaged_stage_is_rebuilt(tmp_path, damage):
    store, built = Store(tmp_path), []

    def build(folder: Path) -> None:
        built.append(1)
        (folder / "x.bin").write_bytes(b"12345678")

    stage = store.ensure("thing", {}, build)
    if damage == "truncate":
        (stage / "x.bin").write_bytes(b"123")
    elif damage == "delete":
        (stage / "x.bin").unlink()
    elif damage == "no manifest":
        (stage / "manifest.json").unlink()
    else:
        (stage / "manifest.json").write_text('{"kind": "thi')
    assert (store.ensure("thing", {}, build) / "x.bin").read_bytes() == b"12345678" and len(built) == 2


def build_slowly(root: str) -> None:
    """Ask the store below ``root`` for a stage whose build takes a while and leaves a mark."""

    def build(folder: Path) -> None:
        with (Path(root) / "count").open("a") as f:
            f.write("x")
        time.sleep(0.5)
        (folder / "x").write_text("x")

    Store(Path(root) / "store").ensure("thing", {}, build)


def test_two_processes_build_stage_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=build_slowly, args=(str(tmp_path),)) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(30)
    assert [w.exitcode for w in workers] == [0, 0]
    assert (tmp_path / "count").read_text() == "x"


def test_file_digest_depends_on_content_and_refuses_missing_file(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    before = digest_files(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("one")
    assert digest_files(tmp_path / "b.txt") == before, "the digest depends on a data file's name"
    (tmp_path / "a.txt").write_text("two")
    assert digest_files(tmp_path / "a.txt") != before
    with pytest.raises(FileNotFoundError, match=r"none\.txt.*no file"):
        digest_files(tmp_path / "none.txt")


def test_json_is_replaced_atomically(tmp_path, monkeypatch):
    write_json(tmp_path / "r.json", {"v": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "r.json", {"v": float("nan")})

    def write_half(path, text):
        path.write_bytes(text.encode()[: len(text) // 2])
        raise OSError("killed")

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match="killed"):
        write_json(tmp_path / "r.json", {"v": 2})
    assert json.loads((tmp_path / "r.json").read_text()) == {"v": 1}
