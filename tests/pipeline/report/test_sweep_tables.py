"""Tables of sweeps: nothing that was swept is dropped or blended."""

import pandas as pd

from gaugeport.pipeline.report.sweep import write_sweep
from gaugeport.pipeline.report.tidy import select
from gaugeport.pipeline.store.records import Found, Record


def record(name, seed=0, last=2, lr=0.1, corpus="mini"):
    config = {
        **{
            "profile": "mini",
            "setting": "default",
            "seed": seed,
            "gauge": "identity",
            "matcher": "none",
            "route": "endpoint",
        },
        **{"model": {"name": "qwen"}, "training": {"run": {"lr": lr}}, "data": {"name": corpus, "seed": 0}},
        "measurement": {"sites": ["embed"]},
    }
    rows = [{"step": step, "metric": "m", "value": lr * step} for step in (1, last)]
    curve = [{"step": last, "alpha": a / 10, "metric": "loss", "value": 1.0} for a in range(11)]
    return Record(
        name, "t", config, [*rows, *curve], 1.0, {}, 2, {"model.path": "/m (ab)"} if name == "local" else {}
    )


def table(tmp_path, records, swept, **lacking):
    found = Found(records, *(lacking.get(k, 0) for k in ("damaged", "outdated", "missing")))
    text = write_sweep(tmp_path, found, swept)
    return text, pd.read_csv(tmp_path / "t.csv")


def lines(text):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")
    ]


def test_many_swept_values_are_not_taken_for_a_curve(tmp_path):
    records = [record(str(i), lr=0.1 * i) for i in range(1, 10)]
    text, _ = table(tmp_path, records, {"lr": "training.run.lr"})
    assert len(lines(text)) == 2 + 9 and "alpha" not in text, "the curve within a job is left to the csv"


def test_every_record_is_read_at_its_own_last_step(tmp_path):
    text, _ = table(
        tmp_path, [record("a", last=2, lr=0.1), record("b", last=4, lr=0.2)], {"lr": "training.run.lr"}
    )
    assert [line[-1] for line in lines(text)[2:]] == ["0.200", "0.800"]


def test_corpora_are_not_averaged_as_seeds(tmp_path):
    records = [record("a"), record("b", corpus="text"), record("c", seed=1)]
    _, frame = table(tmp_path, records, {"data": "data.name"})
    means = select(frame[frame["seed"].isna()], {"metric": "m", "step": 2})
    assert dict(zip(means["data"], means["n"], strict=True)) == {"mini": 2, "text": 1}


def test_swept_values_outside_the_hash_are_shown(tmp_path):
    swept = {"path": "model.path", "sites": "measurement.sites", "memory": "measurement.models_in_memory"}
    _, frame = table(tmp_path, [record("local")], swept)
    assert set(frame["path"]) == {"/m (ab)"} and set(frame["sites"]) == {"['embed']"}


def test_the_footer_counts_what_is_lacking(tmp_path):
    text, _ = table(tmp_path, [record("a")], {}, damaged=1, missing=2)
    assert (
        "Of 4 jobs: 1 damaged, 2 not run." in " ".join(text.split())
        and "2 not run" in (tmp_path / "t.tex").read_text()
    )
