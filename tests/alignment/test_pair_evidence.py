"""Evidence of a pair is collected in one run, and matching it gives what matching the models gives."""

import re
import tempfile
import weakref

import pytest
import torch

import gaugeport as gp
from gaugeport.alignment.align import align
from gaugeport.alignment.along import align_along
from gaugeport.charts import chart_of, fold_gains
from gaugeport.groups import GlobalSignPermutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.streams.activations import all_sites
from gaugeport.transport import transport_model
from tiny_models import batches_of, gen, noisy

D = 32
FAMILIES = ["llama", "gpt_neox"]


def pair(family, folded=False):
    model = fold_gains(tiny_model(family, gen(0))) if folded else tiny_model(family, gen(0))
    cls = SignedPermutation if chart_of(model).norm == "rms" else GlobalSignPermutation
    return model, transport_model(noisy(model, 0.2), cls.random(D, gen(1)))


@pytest.fixture(scope="module", params=FAMILIES)
def collected(request):
    a, b = pair(request.param)
    return a, b, gp.evidence(a, b, batches_of(), weights=True)


def same(found, wanted):
    return (
        found.gauge == wanted.gauge
        and torch.equal(found.margin, wanted.margin)
        and found.objective == wanted.objective
        and found.provenance() == wanted.provenance()
    )


REQUESTS = [
    {},
    {"sites": ["block1"]},
    {"sites": ["blocks.0.hook_resid_post", "embed"], "abstain": 0.01},
    {"evidence": "weights"},
    {"evidence": "both", "sites": "block0"},
    {"group": "permutation"},
    {"group": "permutation", "matcher": "hungarian_abs"},
    {"group": "signed_permutation", "allow_larger": True},
    {"group": "orthogonal", "allow_larger": True},
    {"group": "orthogonal", "allow_larger": True, "evidence": "both"},
    {"group": "mean_preserving_orthogonal", "allow_larger": True},
    {"group": "mean_preserving_orthogonal", "allow_larger": True, "evidence": "weights"},
    {"group": "affine", "allow_larger": True, "sites": "block1"},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_matching_the_evidence_gives_what_matching_the_models_gives(collected, request_):
    a, b, ev = collected
    assert same(align(ev, **request_), align(a, b, batches_of(), **request_))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_model_runs_when_evidence_is_matched(family):
    a, b = pair(family)
    runs = []
    for model in (a, b):
        model.base_model.register_forward_hook(lambda *_: runs.append(1))
    ev = gp.evidence(a, b, batches_of(n=3))
    assert len(runs) == 6
    align(ev), align(ev, sites="block0"), ev.explained(align(ev).gauge)
    assert len(runs) == 6


def test_evidence_says_what_it_holds(collected):
    a, _, ev = collected
    assert ev.width == D and ev.sites == tuple(all_sites(2)) and ev.tokens == 6 * 8 * 15
    assert ev.massive_tokens == dict.fromkeys(all_sites(2), 0)
    assert ev.groups == (chart_of(a).group,) * 2 and ev.group == chart_of(a).group
    assert "720 tokens at embed, block0, block1, and weights" in str(ev)
    llama = tiny_model("llama", gen(0))
    mixed = gp.evidence(llama, fold_gains(llama), batches_of(n=1))
    assert mixed.groups == ("signed_permutation", "orthogonal") and mixed.group == "signed_permutation"


def test_massive_tokens_are_counted_and_left_out():
    model = tiny_model("llama", gen(0))
    with torch.no_grad():
        model.model.embed_tokens.weight[5] *= 1000
    batches = batches_of()
    fives = sum(int((b["input_ids"][:, 1:] == 5).sum()) for b in batches)
    ev, kept = (gp.evidence(model, model, batches, massive=m) for m in ("leave_out", "keep"))
    assert ev.massive_tokens["embed"] == fives > 0 == kept.massive_tokens["embed"]
    assert ev.tokens == kept.tokens == 720


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("which", ["both", "first", "second"])
def test_loaded_models_give_the_same_evidence_as_models(family, which, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    a, b = pair(family)
    wanted = gp.evidence(a, b, batches_of(), weights=True)
    sides = (a if which == "second" else lambda: a), (b if which == "first" else lambda: b)
    found = gp.evidence(*sides, iter(batches_of()), weights=True)
    for request in REQUESTS:
        assert same(align(found, **request), align(wanted, **request))
    assert list(tmp_path.iterdir()) == [], "the files are deleted"


def test_one_model_is_in_memory_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive, sizes = {}, {}

    def load(name, seed):
        assert all(ref() is None for ref in alive.values()), "the other model is still in memory"
        sizes[name] = {p.suffix: p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()}
        model = tiny_model("llama", gen(seed))
        alive[name] = weakref.ref(model)
        return model

    gp.evidence(lambda: load("A", 0), lambda: load("B", 1), batches_of(), weights=True)
    assert list(alive) == ["A", "B"] and sizes["A"] == {}
    assert sizes["B"][".float32"] == 720 * D * 4 and sizes["B"][".safetensors"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["load B", "batch", "B is wider"])
def test_files_are_deleted_after_an_error(broken, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def load_b():
        assert list(tmp_path.rglob("*.float32")), "A's streams are kept while B loads"
        if broken == "load B":
            raise OSError("no such model")
        return tiny_model("llama", gen(0), width=40 if broken == "B is wider" else D)

    batches = batches_of()
    if broken == "batch":
        batches[-1]["input_ids"][0, 0] = -1
    with pytest.raises((OSError, ValueError), match=r"no such model|token id -1|residual width"):
        gp.evidence(lambda: tiny_model("llama", gen(0)), load_b, batches)
    assert list(tmp_path.iterdir()) == []


def test_batches_without_tokens_are_refused_in_files_too():
    model = tiny_model("llama", gen(0))
    with pytest.raises(ValueError, match="no tokens were accumulated"):
        gp.evidence(lambda: model, lambda: model, batches_of(length=1))


def test_weights_alone_need_no_batches():
    a, b = pair("llama")
    ev = gp.evidence(lambda: a, lambda: b, weights=True)
    assert ev.sites == () and ev.tokens == 0 and ev.massive_tokens == {} and "no activations" in str(ev)
    assert same(align(ev), align(a, b, evidence="weights"))
    for call in (lambda: align(ev, evidence="activations"), lambda: ev.explained(align(ev).gauge)):
        with pytest.raises(ValueError, match="no activations; allowed: evidence='weights'"):
            call()


def test_progress_counts_batches_and_matrices():
    a, b = pair("llama")
    said = []
    gp.evidence(a, b, batches_of(n=3), weights=True, progress=lambda *step: said.append(step))
    assert said[:3] == [(i, 3, "running A and B") for i in (1, 2, 3)]
    matrices = len(list(chart_of(a).matrices()))
    assert said[3:] == [(i, matrices, "weights") for i in range(1, matrices + 1)]
    said.clear()
    gp.evidence(lambda: a, b, iter(batches_of(n=2)), progress=lambda *step: said.append(step))
    assert said == [(1, 2, "running A"), (2, 2, "running A"), (1, 2, "running B"), (2, 2, "running B")]
    said.clear()
    gp.evidence(a, b, iter(batches_of(n=2)), progress=lambda *step: said.append(step))
    assert said == [(1, 0, "running A and B"), (2, 0, "running A and B")], "an iterator has no length"
    said.clear()
    align_along([a, a, b], batches_of(n=1), progress=lambda *step: said.append(step))
    assert said == [(1, 1, f"link {i} of 2, running A and B") for i in (1, 2)]


def test_what_the_evidence_lacks_is_named():
    a, b = pair("llama")
    ev = gp.evidence(a, b, batches_of(), sites=["block1"])
    assert align(ev).sites == ("block1",)
    with pytest.raises(ValueError, match=r"no evidence was collected at block0; allowed: all, block1"):
        align(ev, sites=["block0", "block1"])
    with pytest.raises(ValueError, match=r"unknown site \['block2'\]; allowed: all, embed"):
        align(ev, sites="block2")
    for kind in ("weights", "both"):
        with pytest.raises(ValueError, match=r"no weights; allowed: evidence='activations', or weights=True"):
            align(ev, evidence=kind)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"batches": []}, "batches"),
        ({"token_ids": torch.arange(3)}, "token_ids"),
        ({"tokenizers": (None, None)}, "tokenizers"),
        ({"skip_first": 0}, "skip_first"),
        ({"massive": "keep"}, "massive"),
        ({"model_b": "all", "massive": "keep"}, "model_b, massive"),
    ],
)
def test_arguments_that_run_models_are_refused_with_evidence(given, named):
    a, b = pair("llama")
    with pytest.raises(ValueError, match=rf"takes no {re.escape(named)}, because no model runs"):
        align(gp.evidence(a, b, batches_of(n=1)), **given)


def test_wrong_arguments_are_named():
    a, b = pair("llama")
    with pytest.raises(TypeError, match="align needs model_b"):
        align(a)
    with pytest.raises(TypeError, match="expected a model, or a function that loads one, got a str"):
        gp.evidence("folder", b, batches_of())
    with pytest.raises(ValueError, match="needs batches of tokens, or weights=True"):
        gp.evidence(a, b)
    with pytest.raises(ValueError, match="token_ids select rows of weight evidence"):
        gp.evidence(a, b, batches_of(), token_ids=torch.arange(3))
    with pytest.raises(ValueError, match="massive='drop'; allowed: leave_out, keep"):
        gp.evidence(a, b, batches_of(), massive="drop")
    wider = tiny_model("llama", gen(0), width=40)
    for sides in ((a, wider), (lambda: a, lambda: wider)):
        with pytest.raises(ValueError, match="must have the same residual width: A has 32, B has 40"):
            gp.evidence(*sides, batches_of())
    with pytest.raises(ValueError, match=r"unknown site \['final'\]"):
        gp.evidence(a, b, batches_of(), sites=["final"])
