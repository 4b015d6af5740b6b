"""Check what an interrupted transport leaves, and that the same command goes on from there."""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time

import pytest
import torch

from checkpoint_processes import interrupted_transport
from gaugeport.groups import SignedPermutation
from gaugeport.models.loading import load_model
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import checkpoint_moves, transport_checkpoint

RECORD = "gaugeport_transport.json"
G = SignedPermutation.random(16, torch.Generator().manual_seed(1))


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model in some 60 shards."""
    folder = tmp_path_factory.mktemp("source") / "a"
    model = tiny_model("llama", torch.Generator().manual_seed(0), 16, num_hidden_layers=8)
    model.save_pretrained(folder, max_shard_size="1KB")
    (folder / "tokenizer.json").write_text("{}")
    assert len(list(folder.glob("*.safetensors"))) > 50
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """What the transport gives when nothing interrupts it."""
    folder = tmp_path_factory.mktemp("whole") / "b"
    transport_checkpoint(source, G, folder)
    return read_bytes(folder)


def read_bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def record(folder):
    return json.loads((folder / RECORD).read_text())


def written_at(folder, names):
    """Return what changes when a file is written again."""
    return {name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in names}


def stop_after(share):
    """Return a progress callback that raises when a share of the bytes is moved."""

    def progress(done, total, what):
        if done >= share * total:
            raise StopError

    return progress


def stopped(source, out, share=0.5, **options):
    with pytest.raises(StopError):
        transport_checkpoint(source, G, out, progress=stop_after(share), **options)
    return record(out)["done"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_same_command_writes_the_rest_only(source, whole, tmp_path, share):
    out = tmp_path / "b"
    done = stopped(source, out, share)
    assert not list(out.glob(".*"))
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*unfinished transport: give the same"):
        load_model(out)
    before = written_at(out, done)
    report = transport_checkpoint(source, G, out)
    assert set(report.kept) == set(done) and not set(report.written) & set(done)
    assert written_at(out, done) == before
    assert read_bytes(out) == whole


def test_progress_counts_what_was_done_before(source, tmp_path):
    done, seen = stopped(source, tmp_path / "b"), []
    transport_checkpoint(source, G, tmp_path / "b", progress=lambda *now: seen.append(now))
    assert done and seen[-1][0] == seen[-1][1]


def test_done_files_that_have_changed_are_written_again(source, whole, tmp_path):
    out = tmp_path / "b"
    changed, gone, cut, *_ = stopped(source, out)
    content = bytearray((out / changed).read_bytes())
    content[-3] ^= 1
    (out / changed).write_bytes(content)
    (out / gone).unlink()
    (out / cut).write_bytes((out / cut).read_bytes()[:-1])
    report = transport_checkpoint(source, G, out)
    assert {changed, gone, cut} <= set(report.written) and report.kept
    assert read_bytes(out) == whole


def test_a_finished_transport_that_only_lacks_its_mark_is_checked_and_marked(source, whole, tmp_path):
    out = tmp_path / "b"
    transport_checkpoint(source, G, out)
    (out / RECORD).write_text(json.dumps(record(out) | {"complete": False}))
    assert transport_checkpoint(source, G, out).written == ()
    assert read_bytes(out) == whole


def test_another_command_does_not_go_on(source, tmp_path):
    out, other = tmp_path / "b", SignedPermutation.random(16, torch.Generator().manual_seed(2))
    done = stopped(source, out)
    before = read_bytes(out)
    with pytest.raises(FileExistsError, match="it holds the transport of another source and gauge"):
        transport_checkpoint(source, other, out)
    touched = shutil.copytree(source, tmp_path / "touched")
    os.utime(touched / sorted(done)[0])
    with pytest.raises(FileExistsError, match="it holds the transport of another source and gauge"):
        transport_checkpoint(touched, G, out)
    assert read_bytes(out) == before
    report = transport_checkpoint(source, other, out, force=True)
    assert report.kept == ()
    assert record(out)["complete"]


def test_a_call_that_was_killed_as_it_began_leaves_nothing_in_the_way(source, whole, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / f".{RECORD}.123.partial").write_text("{")
    transport_checkpoint(source, G, tmp_path / "b")
    assert read_bytes(tmp_path / "b") == whole


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "gauge": 1}', '{"format": 99}'])
def test_a_damaged_record_is_no_record(source, tmp_path, content):
    stopped(source, tmp_path / "b")
    (tmp_path / "b" / RECORD).write_text(content)
    with pytest.raises(FileExistsError, match="is not empty"):
        transport_checkpoint(source, G, tmp_path / "b")


def test_damaged_entries_of_a_record_are_not_done(source, whole, tmp_path):
    out = tmp_path / "b"
    a, b, *_ = stopped(source, out)
    entries = record(out)["done"] | {a: 3, b: {"bytes": "x"}}
    (out / RECORD).write_text(json.dumps(record(out) | {"done": entries}))
    assert {a, b} <= set(transport_checkpoint(source, G, out).written)
    assert read_bytes(out) == whole


@pytest.mark.parametrize("full_after", [0, 7, 40])
def test_a_full_disk_leaves_whole_files_only(source, whole, tmp_path, monkeypatch, full_after):
    out, calls = tmp_path / "b", []

    def until_full(write):
        def limited(*arguments):
            calls.append(1)
            if len(calls) > full_after:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*arguments)

        return limited

    for name in ("posix_fallocate", "pwrite", "pwritev"):
        monkeypatch.setattr(os, name, until_full(getattr(os, name)))
    with pytest.raises(OSError, match="the disk is full; what is done is kept") as e:
        transport_checkpoint(source, G, out)
    assert e.value.errno == errno.ENOSPC
    monkeypatch.undo()
    left = read_bytes(out)
    assert left.keys() - {RECORD} <= record(out)["done"].keys()
    assert all(whole[name] == content for name, content in left.items() if name != RECORD)
    transport_checkpoint(source, G, out)
    assert read_bytes(out) == whole


def test_an_interrupted_call_ends_its_workers_and_keeps_what_is_done(source, whole, tmp_path, request):
    """Ctrl-C reaches the main thread, which waits for the workers."""
    # a shell ignores it for what runs in its background, the suite for instance
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    out, sent = tmp_path / "b", []

    def interrupt(done, total, what):
        if done > total / 2 and not sent:
            sent.append(signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
        time.sleep(0.01 * len(sent))  # the main thread has time to act before the next piece

    with pytest.raises(KeyboardInterrupt):
        transport_checkpoint(source, G, out, workers=2, progress=interrupt)
    left, done = read_bytes(out), record(out)["done"]
    assert 0.4 * len(whole) < len(done) < 0.9 * len(whole) and left.keys() == done.keys() | {RECORD}
    assert all(whole[name] == left[name] for name in done)
    assert set(transport_checkpoint(source, G, out, workers=2).kept) == done.keys()
    assert read_bytes(out) == whole


def test_too_little_space_is_noticed_before_anything_is_moved(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 10))
    with pytest.raises(OSError, match=r"bytes are to be written, and 10 are free"):
        transport_checkpoint(source, G, tmp_path / "b")
    assert {p.name for p in (tmp_path / "b").iterdir()} == {RECORD}


def test_a_source_that_changes_meanwhile_is_noticed(source, tmp_path):
    copied = shutil.copytree(source, tmp_path / "a")
    last = sorted(copied.glob("*.safetensors"))[-1]
    with pytest.raises(ValueError, match=r"has changed while it was read|has become shorter"):
        transport_checkpoint(
            copied, G, tmp_path / "b", workers=1, progress=lambda done, *_: os.utime(last, (done, done))
        )
    assert not (tmp_path / "b" / last.name).exists() and not (tmp_path / "b" / "config.json").exists()


def test_a_tensor_that_is_moved_wrongly_is_noticed(source, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_moves.InPlace, "by_kinds", lambda self, x, kinds: None)
    with pytest.raises(OSError, match="the file was not written right"):
        transport_checkpoint(source, G, tmp_path / "b")
    assert {p.suffix for p in (tmp_path / "b").iterdir()} <= {".json", ".safetensors"}
    assert not (tmp_path / "b" / "config.json").exists()


def test_two_processes_do_not_write_one_folder(source, tmp_path):
    out = tmp_path / "b"
    out.mkdir()
    folder = os.open(out, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another process is writing"):
        transport_checkpoint(source, G, out)
    os.close(folder)
    transport_checkpoint(source, G, out)


@pytest.mark.slow
def test_ten_kills_at_random_moments_and_the_same_command(source, whole, tmp_path, monkeypatch):
    """Kill -9 at random numbers of done files, and a random time after that."""
    out, gauge, rng = tmp_path / "b", G.save(tmp_path / "g.safetensors"), random.Random(0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server imports once for all kills
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["checkpoint_processes"])
    moments = sorted(rng.sample(range(len(list(source.glob("*.safetensors")))), 10))
    done, partial = {}, 0
    for moment in moments:
        process = context.Process(target=interrupted_transport, args=(source, gauge, out))
        process.start()
        while process.is_alive() and len(done_now(out)) < moment:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.01)
        process.kill()
        process.join()
        assert process.exitcode in (-9, 0)
        partial += process.exitcode == -9
        # what had its name before is there still, and was not written again
        assert written_at(out, done) == done
        if (out / "config.json").exists():  # it is named last; then the record is marked
            assert read_bytes(out).items() >= {k: v for k, v in whole.items() if k != RECORD}.items()
        else:
            with pytest.raises(FileNotFoundError, match=r"no config\.json|does not exist"):
                load_model(out)
        done = written_at(out, [p.name for p in out.glob("model*.safetensors")])
    assert partial >= 5, "the process must have been killed in the middle of its work"
    if not record(out)["complete"]:
        transport_checkpoint(source, G, out)
    assert written_at(out, done) == done
    assert read_bytes(out) == whole


def test_a_file_killed_between_its_record_and_its_name_is_kept(source, whole, tmp_path):
    out = tmp_path / "b"
    done, *_ = stopped(source, out)
    (out / done).rename(out / f".{done}.partial")
    before = (out / f".{done}.partial").stat().st_ino
    (out / ".model-of-nothing.safetensors.partial").touch()
    report = transport_checkpoint(source, G, out)
    assert done in report.kept and (out / done).stat().st_ino == before
    assert read_bytes(out) == whole and not list(out.glob(".*.partial"))


def test_files_found_damaged_are_no_longer_recorded(source, tmp_path):
    out = tmp_path / "b"
    for name in stopped(source, out):
        (out / name).write_bytes(bytes((out / name).stat().st_size))
    assert stopped(source, out, share=0.0, workers=1) == {}


def done_now(out):
    """Return the files that the record says are done; the record is replaced whole, so it can be read."""
    return record(out)["done"] if (out / RECORD).exists() else {}
