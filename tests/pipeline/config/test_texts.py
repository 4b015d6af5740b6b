"""Paths and free text mean what was typed, whatever Hydra's grammar would read in them."""

import json
import random
import shutil

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.config.experiments import experiment
from gaugeport.pipeline.config.sweeps import jobs_of, sweep_jobs
from gaugeport.pipeline.config.texts import as_typed, as_typed_in_sweep, setting, text_of
from processes import printed
from tiny_folders import model, write_model

NAMES = [
    "1.10", "1e-4", "1_000", "-1", "inf", "NaN", "true", "NULL", "runs/lr=1e-4/checkpoint-100", "a(1)", "{b}",
    "[c]", "a, b", " d ", "$HOME", "${seed}", "x\\${seed}", "it's", 'say "no"', "back\\", "e#f", "g:h@i|j",
    "ü", "range(1,3)", "SEEDS", "'one' and 'two'",
]  # fmt: skip
"""Names of folders that Hydra reads otherwise, or not at all."""


def composed(*overrides):
    """Return the job spec that overrides compose to."""
    return from_config(compose_config(overrides), overrides)


def read(override):
    """Return the value that Hydra and OmegaConf read in an override."""
    value = OverridesParser.create().parse_overrides([override])[0].value()
    return OmegaConf.to_container(OmegaConf.create({"key": value}), resolve=True)["key"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write_model(model(), tmp_path_factory.mktemp("saved"))


@pytest.fixture(params=NAMES)
def folder(request, saved, tmp_path, monkeypatch):
    """The name of a model folder in the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, request.param)
    return request.param


def test_model_path_is_what_was_typed(folder):
    spec = composed(f"model.path={folder}", "tracker=none")
    assert spec.job.model.path == folder
    # its own command, a process elsewhere, and a sweep compose the same job
    assert composed(*spec.overrides).job == spec.job
    assert read(spec.overrides[0]) == folder
    (swept,) = sweep_jobs([setting("model.path", folder), "tracker=none"])
    assert swept == spec


def test_override_of_a_table_is_what_was_typed(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "a, {b}")
    jobs = jobs_of(experiment("a9"), "smoke", headline=True, extra=["model.path=a, {b}"])
    assert jobs and {spec.job.model.path for spec in jobs} == {"a, {b}"}


def test_any_text_survives():
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choice("ab01e.-_/'\"\\${},= ([#\n\té|@%?*~") for _ in range(draw.randrange(8)))
        text = f"{text}${{x}}{text}" if draw.random() < 0.2 else text
        override = setting("data.path", text)
        assert read(override) == text == text_of(override.partition("=")[2])
        assert as_typed([override]) == [override] == as_typed_in_sweep([override])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("task.template={text} It was", "{text} It was"),
        ("task.template={text} Overall, it was", "{text} Overall, it was"),
        ("task.template='{text} So'", "{text} So"),
        ('task.template="{text}" was "good"', '"{text}" was "good"'),
        ("task.hub.name=a/1.10", "a/1.10"),
        ("task.hub.split=train[:10%]", "train[:10%]"),
        ("task.field=1", "1"),
        ("++task.label=a=b", "a=b"),
    ],
)
def test_texts_of_tasks_are_what_was_typed(override, value):
    task = composed("task=steering_sentiment", override).job.task
    for part in override.lstrip("+").partition("=")[0].split(".")[1:]:
        task = task[part]
    assert task == value


@pytest.mark.parametrize("name", ["text=1.jsonl", "{a}.txt", "1.txt", "b, c.csv"])
def test_text_files_are_what_was_typed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = f"x{name}"
    for path, text in ((name, "steal"), (other, "bake")):
        rows = [{"instruction": f"{text} {i}"} for i in range(9)]
        lines = [json.dumps(r) if ".jsonl" in path else r["instruction"] for r in rows]
        header = ["instruction"] if ".csv" in path else []
        (tmp_path / path).write_text("\n".join([*header, *lines]) + "\n")
    files = [f"data.path={name}", f"task.harmful={name}", f"task.harmless={other}"]
    fields = ["data.field=1.0", *(["task.field=text"] if ".txt" in name else [])]
    job = composed("data=text", "task=refusal", *fields, *files).job
    assert (job.data.path, job.task["harmful"], job.task["harmless"]) == (name, name, other)
    assert job.data.field == "1.0"


def test_outputs_setting_and_revision_are_what_was_typed():
    hub = ["model.revision=1.10", "model.hub_id=a/{seed}"]
    spec = composed("paths.outputs=out/lr=1e-4", "setting=1.10", *hub)
    assert str(spec.outputs) == "out/lr=1e-4" and spec.job.setting == "1.10"
    assert (spec.job.model.revision, spec.job.model.hub_id) == ("1.10", "a/{seed}")


def test_null_is_none_and_other_keys_keep_hydras_grammar():
    spec = composed("model.path=null", "seed=3", "training.run.lr=1e-3", "measurement.sites=[block1]")
    assert spec.job.model.path is None and spec.overrides[0] == "model.path=null"
    assert (spec.job.training.run.lr, spec.job.measurement.sites) == (1e-3, ["block1"])


def test_plain_values_are_left_as_they_are():
    plain = ["model.path=runs/a.b-c/checkpoint-100", "data.path=/tmp/x_1.jsonl", "setting=width", "seed=0,1"]
    assert as_typed(plain) == plain == as_typed_in_sweep(plain)


def test_sweep_goes_over_several_paths(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["1.10", "lr=1e-4", "a,b", "it's"]
    for name in names:
        shutil.copytree(saved, name)
    jobs = sweep_jobs(['model.path=1.10,lr=1e-4,"a,b",it\'s,null', "seed=0,1", "tracker=none"])
    assert [(s.job.model.path, s.job.seed) for s in jobs] == [(n, s) for n in [*names, None] for s in (0, 1)]
    (one,) = {composed("model.path=a,b").job.model.path}
    assert one == "a,b", "without -m there is one value"


def test_errors_say_how_a_comma_is_quoted():
    quoted = r"with -m a comma separates values, so quote one that holds a comma: 'model.path=\"a,b\"'"
    with pytest.raises(FileNotFoundError, match=rf"model.path=x,y: path does not exist; .*{quoted}"):
        composed("model.path=x,y")
    with pytest.raises(FileNotFoundError, match=rf"model.path=x: path does not exist; .*{quoted}$"):
        sweep_jobs(["model.path=x,y"])
    with pytest.raises(ValueError, match=r"task.template=' it was'; allowed: .*'task.template=\"a,b\"'"):
        sweep_jobs(["task=steering_sentiment", "task.template={text} Overall, it was"])


def test_sweep_refuses_what_cannot_be_read():
    with pytest.raises(ValueError, match=r"override 'seed=\[1' cannot be read \(write key=value\)"):
        sweep_jobs(["seed=[1"])


def test_commands_say_it_in_one_line(tmp_path):
    text = printed(["run", "-m", "model.path=runs/lr=1e-4/a,(b", "seed=0"], tmp_path, code=2)
    assert "error: model.path=runs/lr=1e-4/a: path does not exist" in text and "Traceback" not in text
    text = printed(["run", "--cfg", "job", "data=text", "data.path=runs/lr=1e-4"], tmp_path)
    assert "path: runs/lr=1e-4" in text
