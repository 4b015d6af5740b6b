"""Table d11 at smoke size: what two SAEs share before they have moved, and what is refused."""

import pytest
import torch

from gaugeport.pipeline.rotation.lenses.dictionaries import untrained_dictionary
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.tasks.decoder_cosine import site_at
from smoke_jobs import built, measured, smoke_job

DYCK = ("model=dyck3", "data=dyck3", "training=dyck3", "data.length=64", "task.cohort=A")


def values(rows, metric, **where):
    wanted = {"metric": metric, **where}.items()
    return [r["value"] for r in rows if all(r.get(k) == v for k, v in wanted)]


def test_saes_that_hardly_moved_share_their_start_alone(store):
    job = smoke_job("ablation_decoders", "seed=1", "task.start_norm=1.0", "task.rates=[1.0e-6]")
    rows = measured(job, store)
    assert {r["place"] for r in rows} == {"middle"} and {r["site"] for r in rows} == {"block1"}
    assert min(values(rows, "decoder_max_above", init="same")) == 1
    assert max(values(rows, "decoder_max_above", init="own")) == 0
    assert values(rows, "decoder_max_above", init="untrained") == [0]
    assert min(values(rows, "cosine_to_initial")) > 0.999
    # the anchor's are kept, so its other pairs train no more of them
    kept = len(list((store.root).glob("swept_saes-v1/*/cfg.json")))
    again = measured(job, store)
    assert again == rows and len(list(store.root.glob("swept_saes-v1/*/cfg.json"))) == kept >= 2


def test_columns_start_at_the_length_that_is_asked_for():
    sae = dict(smoke_job("ablation_decoders", "seed=1").task["sae"])
    for settings, length in ((sae, 0.1), ({**sae, "decoder_norm": 1.0}, 1.0)):
        rows = untrained_dictionary(settings, 4, 16, 0).W_dec
        assert torch.allclose(rows.norm(dim=1), torch.full((64,), length))


def test_sites_are_named_by_their_place(store):
    language = smoke_job("ablation_decoders", "seed=1")
    toy = smoke_job("sae_universality", "seed=1", *DYCK)
    for job, middle, last in ((language, "block1", "block1"), (toy, "resid_mid_1", "resid_post_1")):
        sites = pairs.load_side(job, built(job, store).folders, "anchor").sites
        assert [site_at(sites, place, pairs.is_toy(job)) for place in ("middle", "last")] == [middle, last]
    assert site_at(["embed", *(f"block{n}" for n in range(6))], "middle", False) == "block3"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.places=[first]", r"task.places=.*allowed: middle, last"),
        ("task.steps=[0]", r"task.steps=.*allowed: whole numbers from 1"),
        ("task.rates=[]", r"task.rates=.*allowed: positive numbers"),
        ("task.start_norm=0.0", r"task.start_norm=0.0; allowed: positive"),
    ],
)
def test_bad_settings_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        smoke_job("ablation_decoders", "seed=1", override)
