"""Records are read as they were written, and are text that a line-based tool can search."""

import json

import pytest

from gaugeport.pipeline.store.records import Record, read_record, schema_of, write_record


def record(rows):
    config = {"seed": 0, "model": {"name": "tiny-é", "layers": [1, 2]}, "whiten": None}
    schema = schema_of("recovery")
    return Record("0f1e", "recovery", config, rows, 1.5, {"torch": "2"}, schema, {"data.path": "a.txt (0a)"})


@pytest.mark.parametrize("rows", [[], [{"metric": "a", "value": 0.1}, {"site": "embed", "value": 1e-300}]])
def test_record_is_read_as_it_was_written(rows, tmp_path):
    written = record(rows)
    path = write_record(tmp_path, written)
    assert read_record(path) == written
    assert path.read_text() == write_record(tmp_path / "again", written).read_text()
    lines = path.read_text().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines if '"value"' in line] == rows, "a row a line"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_value_that_json_has_not_is_refused(value, tmp_path):
    for bad in (record([{"value": value}]), record([])):
        bad.config["lr"] = value if not bad.rows else 1.0
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_record(tmp_path, bad)
    assert not list(tmp_path.glob("*.json"))
