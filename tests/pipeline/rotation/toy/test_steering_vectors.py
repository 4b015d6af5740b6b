"""Steering vectors of Dyck-3 models: the model run on from any site, which brackets are which class, what is measured."""

import pytest
import torch

from dyck_models import generic
from gaugeport.models.dyck import HEADS, by_head
from gaugeport.pipeline.rotation.toy import components, strings
from gaugeport.pipeline.rotation.toy import steering_vectors as t
from gaugeport.pipeline.rotation.toy.sites import run_from_site, value_at

SITES = ["resid_pre_0", "resid_mid_0", "resid_post_0", "resid_mid_1", "resid_post_1"]


@pytest.fixture(scope="module")
def model():
    return generic(scale=0.4, max_position_embeddings=20)


@pytest.fixture(scope="module")
def rows():
    return strings.draw_strings(40, (2, 18), 20, torch.Generator().manual_seed(0))


def reads_behind(model, site):
    """What reads the stream behind a site."""
    place, n = site.rpartition("_")[0], int(site[-1])
    found = []
    for destination in dict.fromkeys(d for _, d in components.edges(model)):
        if destination == components.OUTPUT:
            found.append(destination)
            continue
        layer, mlp = components.layer_of(destination), components.is_mlp(destination)
        at = {
            "resid_pre": layer >= n,
            "resid_mid": layer > n or (layer == n and mlp),
            "resid_post": layer > n,
        }
        if at[place]:
            found.append(destination)
    return found


@pytest.mark.parametrize("site", SITES)
def test_adding_at_a_site_reaches_all_that_reads_behind_it(model, rows, site):
    ids, v = rows["input_ids"], 0.7 * torch.randn(16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        written = components.run_graph(model, ids).written
        x = value_at(model, written, site)
        torch.testing.assert_close(run_from_site(model, site, x), model(ids).logits)
        patches = {("embed", destination): written["embed"] + v for destination in reads_behind(model, site)}
        expected = components.run_graph(model, ids, patches).logits
        found = run_from_site(model, site, x + v)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float((found - run_from_site(model, site, x)).detach().abs().max()) > 0.1


@pytest.mark.parametrize("site", ["resid_mid_2", "mlp_post_0", "resid_mid", "embed"])
def test_a_site_that_is_not_there(model, site):
    with pytest.raises(
        ValueError,
        match=f"unknown site '{site}'; allowed: one of resid_pre, resid_mid, resid_post, followed by _0 to _1",
    ):
        run_from_site(model, site, torch.zeros(1, 2, 16))


def test_classes_of_brackets():
    # BOS ( [ ] ) ) EOS PAD and five openers, one closer of another family
    brackets = torch.tensor([[3, 4, 7, 6, 6, 3], [3, 3, 3, 3, 3, 7]])
    rows = strings.label_rows(brackets, torch.tensor([5, 6]), 8)
    found = {
        v.name: [t.brackets_labelled(rows, v.head, c).int().tolist() for c in (*v.classes, v.measured)]
        for v in t.VECTORS
    }
    deep, shallow, all_brackets = found["depth_shift"]
    assert deep == [[0] * 8, [0, 0, 0, 0, 0, 1, 0, 0]], "depth 5 and above"
    assert shallow == [[0, 1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]], "depth 3 and below; 4 is neither"
    assert all_brackets == [[0, 1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0]], (
        "neither BOS nor EOS nor padding"
    )
    valid, invalid, measured = found["invalid_suppression"]
    assert measured == invalid == [[0, 0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]
    assert valid == [[0, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0]]
    closers, openers, measured = found["closer_signal"]
    assert closers == [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]
    assert measured == openers == [[0, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0]]


def test_vectors_are_differences_of_class_means_beside_the_length_of_the_stream(model, rows):
    found = t.vectors_at(model, rows, SITES)
    with torch.no_grad():
        written = components.run_graph(model, rows["input_ids"]).written
    for site in SITES:
        x, (vectors, length) = value_at(model, written, site), found[site]
        assert length == pytest.approx(
            float(x[rows["input_ids"] != strings.PAD].norm(dim=-1).mean()), rel=1e-5
        )
        for v in t.VECTORS:
            high, low = (x[t.brackets_labelled(rows, v.head, c)].mean(0) for c in v.classes)
            torch.testing.assert_close(vectors[v.name], high - low, rtol=1e-3, atol=1e-4 * length)


def test_strings_without_a_class_have_no_vector(model):
    rows = strings.label_rows(torch.tensor([[3, 6]]), torch.tensor([2]), 20)
    with pytest.raises(ValueError, match="not hold brackets of both classes of depth_shift"):
        t.vectors_at(model, rows, ["resid_mid_0"])


def test_what_is_measured_is_read_off_the_heads(model, rows):
    with torch.no_grad():
        logits = dict(zip(HEADS, by_head(model(rows["input_ids"]).logits), strict=True))
    p = logits["depth"].softmax(-1)
    token = logits["token"].softmax(-1)
    values = {
        "depth_shift": sum(k * p[..., k] for k in range(9)),
        "invalid_suppression": logits["valid"].log_softmax(-1) @ torch.tensor([1.0, -1.0]),
        "closer_signal": (token[..., 6:9].sum(-1) / token[..., 3:6].sum(-1)).log(),
    }
    found = {
        name: measure(torch.zeros(16))
        for site, name, measure in t.steering_measures(model, rows, ["resid_mid_1"])
    }
    for v in t.VECTORS:
        mask, k = t.brackets_labelled(rows, v.head, v.measured), HEADS.index(v.head)
        right = logits[v.head].argmax(-1) == rows["labels"][..., k]
        for quantity, per_token in (("effect", values[v.name]), ("accuracy", right.double())):
            expected = [float(per_token[i][mask[i]].mean()) for i in range(len(mask)) if mask[i].any()]
            assert found[v.name][quantity].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5), (
                v.name,
                quantity,
            )


def test_at_the_last_site_a_row_of_the_token_head_raises_its_token(model, rows):
    (_, _, measure) = list(t.steering_measures(model, rows, ["resid_post_1"]))[2]
    w = model.lm_head.weight.detach() * model.model.norm.weight.detach()
    v = 50 * (w[list(t.CLOSERS)].mean(0) - w[list(t.OPENERS)].mean(0))
    up, rest, down = (measure(sign * v)["effect"] for sign in (1, 0, -1))
    assert (up > rest).all() and (rest > down).all()
