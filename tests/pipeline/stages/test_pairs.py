"""Test the model pairs of the rotation tasks, and jobs on them at smoke size."""

import shutil
from dataclasses import replace

import pytest
import torch

from gaugeport.models.loading import load_model
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.measures.maps import MATCHER_OF_GROUP
from gaugeport.pipeline.rotation.features.universality import RAW, SCALED, TRANSLATION
from gaugeport.pipeline.stages import pair_saes, pairs
from gaugeport.pipeline.stages.base import base_key, initialise
from gaugeport.pipeline.stages.catalogue import build_stage, keys_of
from gaugeport.pipeline.stages.rows import data_key, read_tokenizer
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks import checkpoints, universality
from smoke_jobs import built, measured

DYCK = ("model=dyck3", "data=dyck3", "training=dyck3", "data.length=64", "task.cohort=A")


def job(*overrides, experiment="sae_universality"):
    chosen = [f"experiment={experiment}", "profile=smoke", "tracker=none", *overrides]
    return from_config(compose_config(chosen), chosen).job


def test_all_checkpoints_are_kept_and_last_equals_base_model(store):
    j = job("seed=1")
    folders = built(j, store).folders
    assert pairs.saved_steps(j, folders, "other") == [10, 20, 30]
    last = load_model(build_stage(j, store, "pretraining"), dtype=torch.float32)
    base = load_model(build_stage(j, store, "base"), dtype=torch.float32)
    initial = initialise(j, read_tokenizer(folders["data"]))
    for name, p in last.named_parameters():
        assert torch.equal(p, base.get_parameter(name)), name
    weights = "gpt_neox.layers.0.mlp.dense_4h_to_h.weight"
    assert not torch.equal(last.get_parameter(weights), initial.get_parameter(weights))
    early = pairs.load_side(j, folders, "other", 10).model
    assert not torch.equal(early.get_parameter(weights), last.get_parameter(weights))
    with pytest.raises(ValueError, match=r"step 15 .*allowed: 10, 20, 30"):
        pairs.load_side(j, folders, "other", 15)


def test_any_seed_can_be_the_anchor_of_a_pair():
    of_b = job("seed=2", *DYCK, "task.cohort=B")
    assert pairs.pair_stages(job("seed=1", *DYCK)) == ("anchor", "replica")
    assert pairs.pair_stages(job("seed=2", "task.anchor=1", *DYCK)) == ("anchor", "compared", "replica")
    assert pairs.pair_stages(replace(of_b, task={**of_b.task, "anchor": 1})) == ("compared", "replica")
    # the anchor is the model that is the other of another pair, from the same stage
    first, second = job("seed=1", *DYCK), job("seed=2", "task.anchor=1", *DYCK)
    assert pairs.side_key(second, "anchor") == pairs.side_key(first, "other")
    assert keys_of(second, ["compared"])["compared"] == keys_of(first, ["replica"])["replica"]
    assert "anchor" not in first.key()["task"] and second.key()["task"]["anchor"] == 1
    with pytest.raises(ValueError, match=r"with seed 2 of its cohort .*allowed: any other, seed=3"):
        pairs.pair_stages(job("seed=2", "task.anchor=2"))
    for of, bad in (((), "-1"), (DYCK, "x"), (("task.cohort=runs",), "1")):
        with pytest.raises(ValueError, match=r"task.anchor=.*allowed: "):
            job("seed=2", *of, f"task.anchor={bad}")


@pytest.mark.parametrize("of", [(), DYCK], ids=["language", "dyck"])
def test_sides_share_tokens_and_parts_do_not(store, of):
    j = job("seed=1", *of)
    folders = built(j, store).folders
    a, b = (pairs.load_side(j, folders, side) for side in pairs.SIDES)
    again = pairs.load_side(j, folders, "anchor")
    fit, test = a.streams("fit", 200), a.streams("test", 200)
    assert list(fit) == list(a.sites) and all(x.shape == fit[a.sites[0]].shape for x in fit.values())
    assert len(fit[a.sites[0]]) == 200
    for site in a.sites:
        assert torch.equal(fit[site], again.streams("fit", 200)[site])
        assert not torch.equal(fit[site], test[site])
    # cohort A shares its boundary, so the first layer reads the same stream in all seeds
    if of:
        assert torch.equal(fit["resid_pre_0"], b.streams("fit", 200)["resid_pre_0"])
    else:
        assert a.layer_norm and float(fit["block0"].mean(1).abs().max()) < 1e-5


def test_anchor_and_unsuitable_models_are_refused():
    with pytest.raises(ValueError, match=r"seed=0 .*allowed: any other, seed=1"):
        universality.stages(job("seed=0"))
    with pytest.raises(ValueError, match=r"task\.cohort='C'; allowed: A, B, seeds, runs"):
        job("task.cohort=C")
    with pytest.raises(ValueError, match=r"model=dyck3.*allowed with.*task\.cohort=A or B"):
        job("model=dyck3", "data=dyck3", "training=dyck3", "data.length=64")
    with pytest.raises(ValueError, match=r"model\.path=.*allowed: task\.cohort=runs"):
        job("model.path=.")
    with pytest.raises(ValueError, match=r"task\.cohort=runs .*allowed: A, B, seeds"):
        job("task.cohort=runs", experiment="checkpoints")


def test_hub_seeds_count_from_one_and_share_tokenizer():
    chosen = ["experiment=sae_universality", "profile=paper", "seed=3"]
    j = from_config(compose_config(chosen), chosen).job
    ids = [base_key(pairs.with_seed_of(j, side))["model"]["hub_id"] for side in pairs.SIDES]
    assert ids == ["EleutherAI/pythia-70m-seed1", "EleutherAI/pythia-70m-seed4"]
    assert data_key(j)["tokenizer"]["hub_id"] == "EleutherAI/pythia-70m-seed1"
    other = from_config(compose_config([*chosen, "data.documents=99"]), chosen).job
    assert base_key(j) == base_key(other), "a published model does not depend on our texts"
    assert pair_saes.saes_key(j, "anchor") != pair_saes.saes_key(other, "anchor"), "its SAEs do"
    alone = [*chosen, "model=pythia"]
    with pytest.raises(ValueError, match=r"model\.hub_id=.*allowed: an id with \{seed\}"):
        from_config(compose_config(alone), alone)


def test_sae_seeds_and_keys_depend_on_initialisation():
    j, k = job("seed=1"), job("seed=2")
    same, own = pair_saes.SAME, pair_saes.OWN
    assert pair_saes.sae_seed(j, "block1", same) == pair_saes.sae_seed(k, "block1", same)
    assert pair_saes.sae_seed(j, "block1", own) != pair_saes.sae_seed(k, "block1", own)
    assert pair_saes.saes_key(j, "anchor") == pair_saes.saes_key(k, "anchor")
    assert pair_saes.saes_key(j, "other") != pair_saes.saes_key(k, "other")
    louder = job("seed=1", "task.sae.l1=9")
    assert pair_saes.saes_key(j, "anchor") == pair_saes.saes_key(louder, "anchor")  # topk has no l1
    with pytest.raises(ValueError, match="architecture='gated'; allowed: topk, standard"):
        job("seed=1", "task.sae.architecture=gated")
    users_own = replace(j, model=replace(j.model, architecture={}))
    pair_saes.check_saes(users_own)  # its width is unknown until it is loaded


MAPS = (RAW, TRANSLATION, SCALED, *MATCHER_OF_GROUP)


def by_group(rows, site, metric):
    return {r["group"]: r["value"] for r in rows if r["site"] == site and r["metric"] == metric}


@pytest.mark.parametrize("of", [(), DYCK, ("task.cohort=runs",)], ids=["seeds", "dyck", "runs"])
def test_universality_and_firing_measure_every_group_at_every_site(store, of):
    j = job("seed=1", *of)
    rows = measured(j, store)
    sites = list(dict.fromkeys(r["site"] for r in rows))
    for site in sites:
        ev = by_group(rows, site, "explained_variance")
        assert set(ev) == {"self", "noise", "noise_rotated", "principal_axes", "native", *MAPS}
        assert all(v <= 1 for v in ev.values())
    if of == DYCK:  # the shared boundary
        ev = by_group(rows, "resid_pre_0", "explained_variance")
        assert ev["identity"] == pytest.approx(ev["self"], abs=1e-9)
    untrained = [r for r in rows if r.get("init") == "untrained"]
    assert len(untrained) == 4 * len(sites)
    fired = measured(job("seed=1", *of, experiment="firing_patterns"), store)
    assert all(-1 <= r["value"] <= 1 for r in fired) and {r["site"] for r in fired} == set(sites)


@pytest.mark.parametrize("of", [(), DYCK], ids=["language", "dyck"])
def test_checkpoints_task_follows_run_from_its_source(store, of):
    j = job(*of, experiment="checkpoints")
    source, *targets = checkpoints.steps_of(j, built(j, store))
    rows = measured(j, store)
    assert {r["source"] for r in rows} == {source}
    losses = {r["step"]: r["value"] for r in rows if r["metric"] == "loss"}
    assert list(losses) == [source, *targets] and min(losses.values()) > 0
    assert {r["step"] for r in rows if r["metric"] != "loss"} == set(targets)
    one_link = [r for r in rows if r["step"] == targets[0] and r["metric"] == "explained_variance_by_step"]
    for group in checkpoints.GROUPS:
        for site in {r["site"] for r in one_link}:
            # both routes agree, because a walk of one link is that link
            endpoint, walk = [r["value"] for r in one_link if r["group"] == group and r["site"] == site]
            assert endpoint == pytest.approx(walk, abs=1e-6)
    last = [r for r in rows if r["metric"] == "explained_variance"]
    assert {r["step"] for r in last} == {targets[-1]} and {r["route"] for r in last} == {"endpoint"}
    late = job(*of, "task.source=1.0", experiment="checkpoints")
    with pytest.raises(ValueError, match=r"task\.source=1\.0 .*at least two"):
        checkpoints.steps_of(late, built(late, store))
    # of several shares, the first step at or beyond each, each step once
    some = job(*of, "task.source=[1,0.4,0.1,0.2]", experiment="checkpoints")
    assert checkpoints.steps_of(some, built(some, store)) == [10, 20, 30]


def test_copy_of_another_seed_is_refused_as_duplicate(store, tmp_path):
    j = job("seed=1")
    pairs.load_pair(j, built(j, store).folders)
    # a store in which both seeds are copies of the anchor
    anchor = build_stage(pairs.with_seed_of(j, "anchor"), store, "pretraining")
    copies = Store(tmp_path)
    for seed in (0, 1):
        key = base_key(replace(j, seed=seed))
        copies.ensure("pretraining", key, lambda folder: shutil.copytree(anchor, folder, dirs_exist_ok=True))
    with pytest.raises(ValueError, match=r"seed 0 of pythia and seed 1 of pythia .*duplicates"):
        pairs.load_pair(j, built(j, copies).folders)
