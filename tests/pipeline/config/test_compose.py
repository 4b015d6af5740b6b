"""Every table composes, and a bad key or value raises an error that lists the allowed ones."""

import pytest

from gaugeport.alignment.routes import ROUTES
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.config.experiments import experiment, experiment_names
from gaugeport.pipeline.config.sweeps import expand, jobs_of
from gaugeport.pipeline.config.validate import allowed_pairs
from gaugeport.pipeline.tasks.registry import stage_keys
from tiny_folders import model, write_model


def composed(overrides):
    """Return the job that Hydra composes."""
    return from_config(compose_config(overrides), overrides)


def test_default_job():
    c = composed(["model=qwen", "seed=3", "profile=smoke"])
    assert (c.job.model.name, c.job.seed, c.job.profile) == ("qwen", 3, "smoke")
    assert c.job.model.architecture["hidden_size"] == 32 and c.tracker == "offline"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=foo", ["model=foo: no such model; allowed: dyck3, pythia", "qwen, smollm2, tinyllama"]),
        ("gauge=permutatio", ["nearest: permutation", "; allowed: global_sign_permutation, identity"]),
        ("matcher=foo", ["foo", "hungarian_abs"]),
        ("modle=qwen", ["unknown config key 'modle'; nearest: model", "; allowed: data, gauge, matcher"]),
        ("training.run.lrr=3", ["training.run.lrr", "training.run.lr", "; allowed: training.run.batch_size"]),
        ("task.nonsense=1", ["unknown config key 'task.nonsense'", "; allowed: task.name, task.plants"]),
        (
            "task.none.at.all=1",
            ["unknown config key 'task.none.at.all'", "; allowed: task.name, task.plants"],
        ),
        ("seed=x", ["seed: Value 'x' of type 'str' could not be converted to Integer"]),
        ("--profile", ["'--profile' cannot be read (write key=value)"]),
        ("training.run.lr=fast", ["fast", "lr", "Float"]),
        ("+training.run.extra=1", ["extra", "save_every"]),
        ("task.name=foo", ["foo", "recovery", "gauge_groups", "sign_ceiling"]),
        ("gauge.name=foo", ["foo", "signed_permutation with hungarian_abs"]),
        ("gauge=global_sign_permutation", ["global_sign_permutation with hungarian_raw"]),
        ("+bogus=1", ["bogus", "model", "training"]),
        ("+task.foo=1", ["foo", "plants"]),
        ("+model.architecture.hidden_sise=3", ["hidden_sise", "hidden_size"]),
        ("measurement.sites=[block99]", ["block99", "block3"]),
        ("training.run.scheduler=nope", ["nope", "constant_with_warmup"]),
        ("training.run.lr=-1", ["training.run.lr", "-1"]),
        ("training.run.save_every=0", ["training.run.save_every", "0"]),
        ("training.run.moments=[7,100]", ["training.run.moments=[7, 100]", "saved at [7]", "null, or"]),
        ("measurement.skip_first=32", ["data.length", "skip_first"]),
        ("measurement.tokens=0", ["measurement.tokens", "0"]),
        ("measurement.positive_share=1.5", ["measurement.positive_share", "1.5", "0 to 1"]),
        ("measurement.positive_share=0.6 task=sign_ceiling", ["positive_share=0.6", "sign_ceiling", "0.5"]),
        ("measurement.massive=drop", ["measurement.massive", "drop", "keep, leave_out"]),
        ("seed=[1", ["seed"]),
    ],
)
def test_bad_overrides_name_what_is_allowed(override, words):
    with pytest.raises(ValueError) as e:
        composed(override.split())
    assert all(w in str(e.value) for w in words), str(e.value)


def test_bad_key_lists_the_keys_that_the_other_overrides_leave():
    with pytest.raises(ValueError, match=r"'task.nonsense'.*; allowed: task.anchor, task.cohort"):
        composed(["experiment=sae_universality", "task.nonsense=1"])
    with pytest.raises(
        ValueError, match="unknown config key 'zz'; allowed: data, gauge"
    ):  # another is bad too
        composed(["zz=1", "yy=1"])


def test_missing_local_files_are_named():
    with pytest.raises(FileNotFoundError, match=r"model.path=/nowhere: .*expected a Hugging Face folder"):
        composed(["model.path=/nowhere"])


def test_every_allowed_gauge_matcher_and_route_composes():
    for gauge, matcher in allowed_pairs():
        job = composed([f"gauge={gauge}", f"matcher={matcher}"]).job
        assert (job.gauge, job.matcher) == (gauge, matcher)
    for route in ROUTES:
        assert composed([f"route={route}"]).job.route == route


def test_expand_is_the_product():
    assert len(expand(["a=1,2", "b=x,y,z", "c=5"])) == 6
    assert expand(["a=1,2", "c=5"]) == [("a=1", "c=5"), ("a=2", "c=5")]


@pytest.mark.parametrize("name", experiment_names())
def test_every_table_composes_and_includes_its_headline(name):
    table = experiment(name)
    assert experiment(table.id) == table
    ids = {spec.job.hash({}) for spec in jobs_of(table, "smoke", headline=False)}
    assert {spec.job.hash({}) for spec in jobs_of(table, "smoke", headline=True)} <= ids


@pytest.mark.parametrize("name", experiment_names())
def test_table_s_jobs_are_those_that_hydra_composes(name):
    jobs = jobs_of(experiment(name), "smoke", extra=["seed=3", "measurement.tokens=999"])
    for job in jobs[:: max(1, (len(jobs) - 1) // 2)]:
        assert composed(job.overrides) == job


def test_unknown_table_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown table 'a99'; allowed: a1 \(gauge_groups\)"):
        experiment("a99")
    with pytest.raises(ValueError, match=r"a9 \(gauge_audit\), a10 \(index_transport\), b1 "):
        experiment("a99")


def test_local_model_is_described_by_its_folder(tmp_path):
    for name in ("mine", "copied"):
        write_model(model(), tmp_path / name)
    (tmp_path / "no-model").mkdir()
    (tmp_path / "no-model" / "notes.txt").write_text("text")
    (tmp_path / "a.txt").write_text("text")
    data = ["data=text", f"data.path={tmp_path / 'a.txt'}"]
    mine, copied = (composed([f"model.path={tmp_path / n}", *data]).job for n in ("mine", "copied"))
    assert (mine.model.name, mine.model.architecture, mine.model.hub_id) == ("mine", {}, "")
    assert (
        mine.hash({"model.path": "aa"})
        == copied.hash({"model.path": "aa"})
        != mine.hash({"model.path": "bb"})
    )
    assert composed([f"model.path={tmp_path / 'mine'}"]).job.data.name == "docs"
    with pytest.warns(UserWarning, match="synthetic mini corpus.*data=text data.path=FILE"):
        composed([f"model.path={tmp_path / 'mine'}", "data=mini"])
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*no-model; got notes.txt"):
        composed([f"model.path={tmp_path / 'no-model'}", *data])


def test_paths_and_trackers_do_not_change_a_job(tmp_path):
    plain, other = composed([]), composed(["tracker=none", f"paths.outputs={tmp_path}"])
    assert plain.job.hash({}) == other.job.hash({}) and other.outputs == tmp_path
    assert plain.job.hash({}) != composed(["seed=1"]).job.hash({})
    assert plain.job.hash({"data.path": "aa"}) != plain.job.hash({"data.path": "bb"}), (
        "contents of local files count"
    )


def test_moments_that_are_kept_change_neither_a_job_nor_its_stages():
    overrides = ["experiment=adamw_resume", "task.resume_step=100"]
    plain, other = composed(overrides).job, composed([*overrides, "training.run.moments=[100]"]).job
    assert plain != other and plain.hash({}) == other.hash({}) and stage_keys(plain) == stage_keys(other)


@pytest.mark.parametrize("line", ["seed=0,1,0", "model=qwen,qwen"])
def test_value_named_twice_is_refused(line):
    with pytest.raises(ValueError, match=r"names (0|qwen) twice; allowed: each once"):
        expand([line])
