"""Tasks leave massive tokens out of the streams they read: those of one word are a thousand times as long."""

import importlib

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.pipeline.store.store import Store
from gaugeport.streams.massive import MASSIVE_NORM
from gaugeport.texts import row_batches
from gaugeport.tool.audit import Model
from gaugeport.tool.text import positions_of, token_rows
from smoke_jobs import measured, smoke_job
from tiny_folders import model, tokenizer, write_model, write_text

LOUD = "w7"


def loud_model():
    loud = model()
    with torch.no_grad():
        loud.model.embed_tokens.weight[tokenizer().convert_tokens_to_ids(LOUD)] *= 1000
    return loud


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loud")
    write_model(loud_model(), folder / "model")
    write_text(folder / "text.txt", lines=200)
    return folder


def longest(stream):
    """Return the largest norm over the median norm."""
    norms = stream.norm(dim=1)
    return float(norms.max() / norms.median())


READERS = {
    "a2": ("sign_ceiling", ["task.activations=real"], "tasks.sign_ceiling", "sign_ceiling_rows", 2),
    "a4": ("sae_transfer", ["task.target=self", "route=endpoint"], "stages.saes", "train_sae", 1),
    "c1": (
        "groups_head_to_head",
        ["task.target=finetuned", "task.tokens=[64]"],
        "tasks.head_to_head",
        "head_to_head_rows",
        4,
    ),
}


@pytest.mark.parametrize("table", READERS)
def test_streams_of_a_task_have_no_massive_tokens_unless_it_is_told_to_keep_them(
    table, folder, tmp_path, monkeypatch
):
    experiment, overrides, module, reader, streams = READERS[table]

    class Read(Exception):
        pass

    def stop(*arguments, **named):
        raise Read(*arguments[:streams])

    monkeypatch.setattr(importlib.import_module(f"gaugeport.pipeline.{module}"), reader, stop)
    # the model knows no words to steer by
    monkeypatch.setattr("gaugeport.pipeline.tasks.head_to_head._retention", lambda job, pair: None)
    text = ["data=text", f"data.path={folder / 'text.txt'}", "data.length=16", "measurement.tokens=128"]
    seen = {}
    for massive in ("leave_out", "keep"):
        job = smoke_job(
            experiment, f"model.path={folder / 'model'}", *text, *overrides, f"measurement.massive={massive}"
        )
        with pytest.raises(Read) as read:
            measured(job, Store(tmp_path))
        seen[massive] = read.value.args
    for without, kept in zip(seen["leave_out"], seen["keep"], strict=True):
        assert longest(without) < MASSIVE_NORM < longest(kept)
        assert 0.9 * len(kept) < len(without) < len(kept)


def test_stream_of_an_audit_is_that_of_the_ordinary_tokens(folder):
    loud, words = loud_model(), tokenizer()
    token = words.convert_tokens_to_ids(LOUD)
    rows, _ = token_rows(words, 4096, positions_of(loud.config), folder / "text.txt")
    ordinary = rows[:, 1:] != token
    batches = list(row_batches(rows, 8))
    assert len(batches) > 1 and not bool(ordinary.all())
    stream = Model(loud, chart_of(loud), "block1", rows).stream
    assert len(stream) == int(ordinary.sum()) and longest(stream) < MASSIVE_NORM
