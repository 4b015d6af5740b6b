"""Check that files and folders are written whole or not at all."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from gaugeport.utils.files import atomic_file, atomic_folder, check_apart, check_new, write_json, write_text


def test_error_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_json_is_sorted_and_refuses_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1], "a": None})
    assert path.read_text() == '{\n "a": null,\n "b": [\n  1\n ]\n}\n'
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text()) == {"b": [1], "a": None}


def test_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"
    assert list(path.parent.iterdir()) == [path]


def test_error_leaves_no_folder(tmp_path):
    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("1")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_a_filled_folder_is_overwritten_only_by_force(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(FileExistsError, match="folder exists already"), atomic_folder(path):
        path.mkdir()  # by another process, in the meantime
        (path / "old").write_text("1")
    with pytest.raises(FileExistsError, match="folder exists already"), atomic_folder(path):
        raise AssertionError("not reached")
    assert list(tmp_path.iterdir()) == [path] and (path / "old").exists()
    with pytest.raises(OSError, match="disk full"), atomic_folder(path, force=True):
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == [path] and (path / "old").exists()
    with atomic_folder(path, force=True) as temporary:
        (temporary / "new").write_text("2")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert [p.name for p in path.iterdir()] == ["new"]


def test_an_empty_folder_is_filled_and_a_link_is_refused(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("1")
    assert (path / "a").exists()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(FileExistsError, match="is a link"), atomic_folder(tmp_path / "link", force=True):
        raise AssertionError("not reached")


def test_what_is_no_file_or_folder_and_what_one_stands_in_stays(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("1")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "work" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deeper")
    monkeypatch.setenv("HOME", str(tmp_path / "work" / "home"))
    for path, message in {
        "pipe": "is neither a file nor a folder",
        "file/x": "cannot be made: .*file is no folder",
        "loop/x/y": "cannot be made: .*loop is no folder",
        "work": "holds the home folder or the working folder",
        "work/deeper/../../work": "holds the home folder or the working folder",
    }.items():
        with pytest.raises(FileExistsError, match=message):
            check_new(tmp_path / path, force=True)
    with pytest.raises(FileExistsError, match="is not a file"), atomic_file(tmp_path / "pipe"):
        raise AssertionError("not reached")
    check_new(tmp_path / "file", force=True)
    check_new(tmp_path / "new" / "x")


def test_a_rename_that_fails_keeps_the_old_folder(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("1")
    rename = os.replace

    def fails_at_the_end(source, target):
        if target == path and str(source).endswith(".partial"):
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails_at_the_end)
    with pytest.raises(OSError, match="disk full"), atomic_folder(path, force=True):
        pass
    assert list(tmp_path.iterdir()) == [path] and (path / "old").exists()


@pytest.mark.parametrize(
    ("out", "what"), [("a", "is"), ("a/b", "lies in"), (".", "contains"), ("x/../a", "is")]
)
def test_a_result_lies_apart_from_its_source(tmp_path, out, what):
    (tmp_path / "a").mkdir()
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=f"{what} the source .*a; expected a place apart"):
        check_apart(tmp_path / out, tmp_path / "a")
    check_apart(tmp_path / "ab", tmp_path / "a")


def mode_of(path):
    return path.stat().st_mode & 0o777


def test_tensors_are_readable_by_those_whom_the_umask_allows(tmp_path, group_may_read):
    tensors = {"a": torch.zeros(2)}
    with atomic_file(tmp_path / "g.safetensors") as temporary:
        assert not temporary.exists(), "a writer that fails to write leaves nothing"
        save_file(tensors, temporary)
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "deep").mkdir()
        save_file(tensors, temporary / "deep" / "model.safetensors")
        (temporary / "token").touch(mode=0o600)
        (temporary / "kept.safetensors").touch(mode=0o440)
        (temporary / "folder.safetensors").mkdir()
    assert mode_of(tmp_path / "g.safetensors") == 0o640
    assert mode_of(tmp_path / "model" / "deep" / "model.safetensors") == 0o640
    modes = {path.name: mode_of(path) for path in (tmp_path / "model").iterdir() if path.name != "deep"}
    assert modes == {"token": 0o600, "kept.safetensors": 0o440, "folder.safetensors": 0o750}


def test_a_link_s_target_keeps_its_mode(tmp_path, group_may_read):
    (tmp_path / "mine.safetensors").touch(mode=0o600)
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "model.safetensors").symlink_to(tmp_path / "mine.safetensors")
    assert mode_of(tmp_path / "mine.safetensors") == 0o600
