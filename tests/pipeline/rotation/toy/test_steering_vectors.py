"""Steering vectors of Dyck-3 models: classes of brackets, the vectors, and their effects."""

import pytest
import torch

from dyck_models import generic
from gaugeport.models.dyck import HEADS, by_head
from gaugeport.pipeline.rotation.toy import components, strings
from gaugeport.pipeline.rotation.toy import steering_vectors as t
from gaugeport.pipeline.rotation.toy.sites import value_at

SITES = ["resid_pre_0", "resid_mid_0", "resid_post_0", "resid_mid_1", "resid_post_1"]


@pytest.fixture(scope="module")
def model():
    return generic(scale=0.4)


@pytest.fixture(scope="module")
def rows():
    return strings.draw_strings(40, (2, 18), 20, torch.Generator().manual_seed(0))


def test_classes_of_brackets():
    # BOS ( [ ] ) ) EOS PAD, and: five openers, one closer of another family
    brackets = torch.tensor([[3, 4, 7, 6, 6, 3], [3, 3, 3, 3, 3, 7]])
    rows = strings.label_rows(brackets, torch.tensor([5, 6]), 8, strings.RUNNING)
    masks = {}
    for v in t.VECTORS:
        label_sets = (*v.classes, v.measured)
        masks[v.name] = [t.brackets_labelled(rows, v.head, labels).int().tolist() for labels in label_sets]
    deep, shallow, measured = masks["depth_shift"]
    assert deep == [[0] * 8, [0, 0, 0, 0, 0, 1, 0, 0]], "depth 5 and above"
    assert shallow == [[0, 1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]], "depth 3 and below; 4 is neither"
    assert measured == [[0, 1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0]], "not BOS, EOS or padding"
    valid, invalid, measured = masks["invalid_suppression"]
    assert measured == invalid == [[0, 0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]
    assert valid == [[0, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0]]
    closers, openers, measured = masks["closer_signal"]
    assert closers == [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]
    assert measured == openers == [[0, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0]]


def test_vectors_are_differences_of_class_means(model, rows):
    vectors_of_site = t.vectors_at(model, rows, SITES)
    with torch.no_grad():
        written = components.run_graph(model, rows["input_ids"]).written
    kept = rows["input_ids"] != strings.PAD
    for site in SITES:
        x, (vectors, length) = value_at(model, written, site), vectors_of_site[site]
        assert length == pytest.approx(float(x[kept].norm(dim=-1).mean()), rel=1e-5)
        for v in t.VECTORS:
            high, low = (x[t.brackets_labelled(rows, v.head, labels)].mean(0) for labels in v.classes)
            torch.testing.assert_close(vectors[v.name], high - low, rtol=1e-3, atol=1e-4 * length)


def test_strings_without_a_class_are_refused(model):
    rows = strings.label_rows(torch.tensor([[3, 6]]), torch.tensor([2]), 20)
    with pytest.raises(ValueError, match=r"1 strings.*depth_shift"):
        t.vectors_at(model, rows, ["resid_mid_0"])


def test_effect_and_accuracy_are_read_off_the_heads(model, rows):
    with torch.no_grad():
        logits = dict(zip(HEADS, by_head(model(rows["input_ids"]).logits), strict=True))
    depth, token = logits["depth"].softmax(-1), logits["token"].softmax(-1)
    effects = {
        "depth_shift": sum(k * depth[..., k] for k in range(9)),
        "invalid_suppression": logits["valid"].log_softmax(-1) @ torch.tensor([1.0, -1.0]),
        "closer_signal": (token[..., 6:9].sum(-1) / token[..., 3:6].sum(-1)).log(),
    }
    measures = t.steering_measures(model, rows, ["resid_mid_1"])
    at_rest = {name: measure(torch.zeros(16)) for site, name, measure in measures}
    for v in t.VECTORS:
        mask, k = t.brackets_labelled(rows, v.head, v.measured), HEADS.index(v.head)
        right = logits[v.head].argmax(-1) == rows["labels"][..., k]
        for quantity, per_token in (("effect", effects[v.name]), ("accuracy", right.double())):
            expected = [float(per_token[i][mask[i]].mean()) for i in range(len(mask)) if mask[i].any()]
            measured = at_rest[v.name][quantity].tolist()
            assert measured == pytest.approx(expected, rel=1e-4, abs=1e-5), (v.name, quantity)


def test_a_row_of_the_token_head_raises_its_token_at_the_last_site(model, rows):
    (_, _, measure) = list(t.steering_measures(model, rows, ["resid_post_1"]))[2]
    w = model.lm_head.weight.detach() * model.model.norm.weight.detach()
    v = 50 * (w[list(t.CLOSERS)].mean(0) - w[list(t.OPENERS)].mean(0))
    up, rest, down = (measure(sign * v)["effect"] for sign in (1, 0, -1))
    assert (up > rest).all() and (rest > down).all()
