"""Check that files and folders are written whole or not at all."""

import json

import pytest

from gaugeport.utils.files import atomic_file, atomic_folder, write_json, write_text


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


def test_existing_folder_is_never_overwritten(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(FileExistsError, match="folder exists already"), atomic_folder(path):
        path.mkdir()  # by another process, in the meantime
    with pytest.raises(FileExistsError, match="folder exists already"), atomic_folder(path):
        raise AssertionError("not reached")
    assert list(tmp_path.iterdir()) == [path]
