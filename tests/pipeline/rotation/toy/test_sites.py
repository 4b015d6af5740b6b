"""Sites hold what the model computes there, and the model runs on from any site of the stream."""

import pytest
import torch

from dyck_models import generic
from gaugeport.charts import fold_gains
from gaugeport.models.dyck import DyckConfig, DyckModel
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.sites import activations_at, run_from_site, sae_sites, value_at

STREAM_SITES = ["resid_pre_0", "resid_mid_0", "resid_post_0", "resid_mid_1", "resid_post_1"]


@pytest.fixture(scope="module")
def model():
    return generic(scale=0.4)


@pytest.fixture(scope="module")
def initialised():
    """A folded model as it is initialised, with a larger standard deviation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
        config = DyckConfig(**sizes, max_position_embeddings=20, initializer_range=0.4)
        return fold_gains(DyckModel(config).eval())


@pytest.fixture(scope="module")
def rows():
    return strings.draw_strings(40, (2, 18), 20, torch.Generator().manual_seed(0))


def test_sites_hold_what_the_model_computes(initialised):
    model, layer, seen = initialised, initialised.model.layers[1], {}
    rows = strings.draw_strings(300, (2, 18), 20, torch.Generator().manual_seed(1))
    modules = {
        "resid_pre_1": (layer.input_layernorm, "input"),
        "resid_mid_1": (layer.post_attention_layernorm, "input"),
        "resid_post_1": (model.model.norm, "input"),
        "attn_out_1": (layer.self_attn, "output"),
        "mlp_in_1": (layer.mlp, "input"),
        "mlp_out_1": (layer.mlp, "output"),
        "mlp_pre_1": (layer.mlp.up_proj, "output"),
        "mlp_post_1": (layer.mlp.down_proj, "input"),
    }

    def keep(site, side):
        def hook(module, args, out):
            seen[site] = args[0] if side == "input" else out

        return hook

    handles = [module.register_forward_hook(keep(site, side)) for site, (module, side) in modules.items()]
    with torch.no_grad():
        model(rows["input_ids"])
    for handle in handles:
        handle.remove()
    kept = rows["attention_mask"] == 1
    for site, by_model in seen.items():
        activations = activations_at(model, rows, site)
        width = 24 if site in ("mlp_pre_1", "mlp_post_1") else 16
        assert activations.shape == (int(kept.sum()), width), site
        assert torch.allclose(activations, by_model[kept], atol=1e-5), site
    other_site = activations_at(model, rows, "resid_pre_1")
    assert not torch.allclose(other_site, seen["resid_post_1"][kept], atol=1e-2)
    assert len(sae_sites(2)) == 12 and set(sae_sites(2)) > set(modules) - {"mlp_in_1", "mlp_out_1"}


def destinations_after(model, site):
    """List the destinations that read the stream after a site."""
    place, n = site.rpartition("_")[0], int(site[-1])
    after = []
    for destination in dict.fromkeys(d for _, d in c.edges(model)):
        if destination == c.OUTPUT:
            after.append(destination)
            continue
        layer, mlp = c.layer_of(destination), c.is_mlp(destination)
        reads = {
            "resid_pre": layer >= n,
            "resid_mid": layer > n or (layer == n and mlp),
            "resid_post": layer > n,
        }
        if reads[place]:
            after.append(destination)
    return after


@pytest.mark.parametrize("site", STREAM_SITES)
def test_adding_at_a_site_reaches_all_that_reads_after_it(model, rows, site):
    ids, v = rows["input_ids"], 0.7 * torch.randn(16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        written = c.run_graph(model, ids).written
        x = value_at(model, written, site)
        unmoved, moved = run_from_site(model, site, x), run_from_site(model, site, x + v)
        torch.testing.assert_close(unmoved, model(ids).logits)
        patches = {
            ("embed", destination): written["embed"] + v for destination in destinations_after(model, site)
        }
        by_graph = c.run_graph(model, ids, patches).logits
    torch.testing.assert_close(moved, by_graph, rtol=1e-4, atol=1e-5)
    assert float((moved - unmoved).abs().max()) > 0.1


@pytest.mark.parametrize("site", ["resid_pre_2", "resid_pre", "logits_0", "resid_pre_-1"])
def test_an_activation_at_an_unknown_site_is_refused(model, rows, site):
    written = c.run_graph(model, rows["input_ids"]).written
    with pytest.raises(ValueError, match=f"unknown site '{site}'; allowed: .*resid_pre.* _0 to _1"):
        value_at(model, written, site)


@pytest.mark.parametrize("site", ["resid_mid_2", "mlp_post_0", "resid_mid", "embed"])
def test_running_on_from_an_unknown_site_is_refused(model, site):
    allowed = "resid_pre, resid_mid, resid_post, followed by _0 to _1"
    with pytest.raises(ValueError, match=f"unknown site '{site}'; allowed: one of {allowed}"):
        run_from_site(model, site, torch.zeros(1, 2, 16))
