"""``task.target=self``: the base model as it is."""

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.config.sweeps import sweep_jobs
from gaugeport.pipeline.tasks.registry import stage_keys, task_of
from smoke_jobs import measured, smoke_job
from tiny_folders import model, write_model

B_D, S_D, NONE = (
    ["gauge=signed_permutation", "matcher=hungarian_abs"],
    ["gauge=permutation", "matcher=hungarian_abs"],
    ["gauge=identity", "matcher=none"],
)


def composed(*overrides):
    return from_config(compose_config(["profile=smoke", "tracker=none", *overrides]), overrides).job


def values(experiment, condition, store, *overrides):
    """Return the values of one self job by metric, those of coordinate lists under the list's name."""
    rows = measured(
        smoke_job(experiment, "task.target=self", "route=endpoint", *condition, *overrides), store
    )
    assert {r["target"] for r in rows} == {"self"} and {r["step"] for r in rows} == {0}
    # neuron gauges, which the audit also plants, leave the lists of coordinates alone
    kept = [r for r in rows if r.get("planted") != "neuron"]
    return {(r["list"], r["metric"]) if "list" in r else r["metric"]: r["value"] for r in kept}


def test_no_fine_tuning_run_is_required():
    for task in ("steering_sentiment", "refusal", "sae", "audit", "indices", "merge"):
        job = composed(f"task={task}", "task.target=self", "route=endpoint")
        assert not {"A", "B"} & set(task_of(job).stages(job)), task


def test_sae_of_the_base_moves_to_its_copy(store):
    b_d, s_d = (values("sae_transfer", c, store) for c in (B_D, S_D))
    assert b_d["signed_accuracy"] == 1 and b_d["nmse"] == b_d["nmse_native"] and b_d["nmse_to_oracle"] == 0
    assert s_d["index_accuracy"] == 1 > s_d["signed_accuracy"] and s_d["nmse"] > 2 * s_d["nmse_native"]
    assert b_d["loss_A"] == b_d["loss_B"]


def test_lists_and_merges_of_the_base_and_its_copy(store):
    for experiment in ("index_transport", "gauge_audit"):
        metric = "rank_correlation"
        b_d, none = (values(experiment, c, store) for c in (B_D, NONE))
        assert (
            b_d["mean_activation", metric] == pytest.approx(1) and abs(none["mean_activation", metric]) < 0.7
        )
    b_d, none = (values("merging", c, store) for c in (B_D, NONE))
    assert b_d["barrier"] == pytest.approx(0, abs=1e-5) and none["barrier"] > 0.01


@pytest.mark.parametrize("way", ["one job", "sweep"])
def test_target_texts_and_rates_of_a_pretrained_model(way, tmp_path):
    def job(*overrides):
        overrides = ["profile=smoke", "tracker=none", "task=sae", "route=endpoint", *overrides]
        return composed(*overrides) if way == "one job" else sweep_jobs(overrides)[0].job

    write_model(model(), tmp_path)
    for which in ("model=smollm2", f"model.path={tmp_path}"):
        own = job(which)
        assert (own.task["target"], own.data.name, own.training.run.lr) == ("self", "docs", 1e-4)
        named = job(which, "task.target=identical", "data=pile", "training=finetune")
        assert (named.task["target"], named.data.name, named.training.run.lr) == ("identical", "hub", 1.5e-2)
        with pytest.warns(UserWarning, match="synthetic mini corpus"):
            assert job(which, "data=mini").data.name == "mini"
    trained_here = job("model=qwen")
    assert (trained_here.task["target"], trained_here.data.name) == ("identical", "mini")


def test_sae_and_lists_of_the_base_belong_to_the_texts_they_are_made_on():
    for task in ("sae", "indices"):
        plain, fewer = (
            stage_keys(composed(f"task={task}", "task.target=self", "route=endpoint", f"data.documents={n}"))
            for n in (2500, 2400)
        )
        changed = {name for name in plain if plain[name] != fewer[name]}
        assert changed == set(plain), task


def test_settings_that_a_task_does_not_read_are_refused():
    for setting in ("measurement.massive=keep", "measurement.positive_share=0.6"):
        with pytest.raises(ValueError, match=setting.partition("=")[0]):
            composed("task=adamw_resume", "task.target=self", setting)
