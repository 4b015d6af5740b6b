"""Read an offline wandb run: a LevelDB log of protobuf records, in 32 KiB blocks after a 7-byte header."""

import json
import struct
import time

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path):
    """The records of a ``run-<id>.wandb`` file, in order."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, []
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if at + 7 + length > len(data):
            return  # still being written
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def ended(path, patience=60.0):
    """The records of a run that has ended. ``Run.finish`` only *tells* wandb's service to close the file, so
    its last block may come after the call returns (measured: never on an idle machine, twice in one run of a
    busy CI)."""
    end = time.monotonic() + patience
    while not (found := list(records(path))) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < end, f"{path} has no exit record after {patience:g} s"
        time.sleep(0.05)
    return found


def read(folder):
    """Return an offline run's id, config, history (a dict per line), summary and artifacts."""
    (path,) = folder.glob("*.wandb")
    run, config, history, summary, artifacts = None, {}, [], {}, []
    for record in ended(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            history.append({_name(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            summary |= {_name(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "artifact":
            artifacts.append(record.artifact)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            artifacts.append(record.request.log_artifact.artifact)
    return run, config, history, summary, artifacts


def _name(item):
    return item.key or ".".join(item.nested_key)
