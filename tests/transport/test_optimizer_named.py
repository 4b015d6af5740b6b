"""Test optimizer states that are keyed by names, and names with the prefixes that wrappers leave.

One AdamW step is elementwise, so the step of the moved parameters, gradients and states is the moved step,
bit for bit, under every signed permutation.
"""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from gaugeport.charts import chart_of
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_model
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.optimizer_names import without_wrappers

D = 32
G = SignedPermutation.random(D, torch.Generator().manual_seed(2))
FULL = StateDictOptions(full_state_dict=True)


def trained(tied=False, steps=2):
    """Return a model and its AdamW, which has taken a few steps in two param_groups."""
    generator = torch.Generator().manual_seed(1)
    model = tiny_model("llama", generator, D, tie_word_embeddings=tied)
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for _ in range(steps):
        step(model, optimizer, torch.randint(0, 64, (2, 8), generator=generator))
    return model, optimizer


def step(model, optimizer, tokens):
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()


def like(optimizer, model):
    """Return a new AdamW with the same groups over the parameters of another model."""
    named = {id(p): n for n, p in model["from"].named_parameters()}
    new = dict(model["to"].named_parameters())
    groups = [
        {k: v for k, v in group.items() if k != "params"}
        | {"params": [new[named[id(p)]] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return torch.optim.AdamW(groups)


def moved_as_parameters(model, tensors, g):
    """Move tensors by the rule of the parameters that they belong to."""
    chart, moved = chart_of(model), {}
    for name, t in tensors.items():
        moved[name] = t
        for axis, kind in enumerate(chart.axes(name)):
            moved[name] = {"vector": g.act, "gain": g.act_gain, "none": lambda x, _: x}[kind](
                moved[name], axis
            )
    return moved


def one_step(model, optimizer, state, g, load):
    """Take one step with the moved gradient from a moved model and state; return both end points, by name.

    The first is where the reference arrives, moved; the second is where the moved run arrives.
    """
    tokens = torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(5))
    moved = transport_model(model, g)
    moved_optimizer = like(optimizer, {"from": model, "to": moved})
    load(moved, moved_optimizer, state)
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    gradients = moved_as_parameters(model, {n: p.grad for n, p in model.named_parameters()}, g)
    for name, p in moved.named_parameters():
        p.grad = gradients[name]
    optimizer.step()
    moved_optimizer.step()
    expected = moved_as_parameters(model, {n: p.detach() for n, p in model.named_parameters()}, g)
    return expected, {n: p.detach() for n, p in moved.named_parameters()}


def load_named(model, optimizer, state):
    set_optimizer_state_dict(model, optimizer, copy.deepcopy(state), options=FULL)


@pytest.mark.parametrize("tied", [False, True])
def test_one_step_from_a_named_state_is_the_moved_step(tied):
    model, optimizer = trained(tied)
    state = get_optimizer_state_dict(model, optimizer, options=FULL)
    assert "model.norm.weight" in state["state"]
    moved = transport_optimizer(state, G, model)
    assert moved["state"].keys() == state["state"].keys() and moved["param_groups"] == state["param_groups"]
    expected, after = one_step(*copy.deepcopy((model, optimizer)), moved, G, load_named)
    assert all(torch.equal(after[n], t) for n, t in expected.items())
    # control: the state as it was, and the state without signs
    for wrong in (state, transport_optimizer(state, G.without_signs(), model)):
        expected, after = one_step(*copy.deepcopy((model, optimizer)), wrong, G, load_named)
        assert not all(torch.equal(after[n], t) for n, t in expected.items())


def test_numbered_and_named_states_move_alike():
    model, optimizer = trained()
    named = {id(p): n for n, p in model.named_parameters()}
    order = [named[id(p)] for group in optimizer.param_groups for p in group["params"]]
    numbered = transport_optimizer(optimizer.state_dict(), G, model, names=order)["state"]
    by_name = transport_optimizer(get_optimizer_state_dict(model, optimizer, options=FULL), G, model)["state"]
    for i, name in enumerate(order):
        assert all(torch.equal(t, by_name[name][k]) for k, t in numbered[i].items()), name


PREFIXES = (
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_fsdp_wrapped_module.",
    "module.module.",
    "_orig_mod._checkpoint_wrapped_module.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_kept_and_read_over(prefix):
    model, optimizer = trained()
    plain = get_optimizer_state_dict(model, optimizer, options=FULL)
    expected = transport_optimizer(plain, G, model)
    named = {
        "state": {prefix + n: entries for n, entries in plain["state"].items()},
        "param_groups": [
            group | {"params": [prefix + n for n in group["params"]]} for group in plain["param_groups"]
        ],
    }
    moved = transport_optimizer(named, G, model)
    assert moved["state"].keys() == named["state"].keys() and moved["param_groups"] == named["param_groups"]
    for name, entries in expected["state"].items():
        assert all(torch.equal(t, moved["state"][prefix + name][k]) for k, t in entries.items())
    # the names that torch.optim keeps if it is made from named parameters
    wrapped = torch.optim.AdamW([(prefix + n, p) for n, p in model.named_parameters()])
    step(model, wrapped, torch.arange(16).view(2, 8))
    state = wrapped.state_dict()
    names = [n for n, _ in model.named_parameters()]
    for given in (None, names, [prefix + n for n in names]):
        moved = transport_optimizer(state, G, model, names=given)
        assert moved["param_groups"][0]["param_names"] == [prefix + n for n in names]
    with pytest.raises(ValueError, match="names= and the state's own param_names disagree"):
        transport_optimizer(state, G, model, names=names[::-1])


def test_wrapped_models_are_unwrapped():
    model, optimizer = trained()
    state = get_optimizer_state_dict(model, optimizer, options=FULL)
    expected = transport_optimizer(state, G, model)["state"]["model.norm.weight"]["exp_avg"]
    for wrapped in (torch.compile(model), nn.DataParallel(model), nn.DataParallel(torch.compile(model))):
        moved = transport_optimizer(state, G, wrapped)
        assert torch.equal(moved["state"]["model.norm.weight"]["exp_avg"], expected)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("module.model.norm.weight", "model.norm.weight"),
        (
            "_orig_mod.model.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
        ),
        ("model.module.weight", "model.module.weight"),  # a module of this name inside a model
        ("module", "module"),
    ],
)
def test_only_wrappers_are_read_over(name, clean):
    assert without_wrappers(name) == clean


def test_named_states_that_do_not_fit_are_refused():
    model, optimizer = trained()
    state = get_optimizer_state_dict(model, optimizer, options=FULL)

    def refused(change, match):
        changed = copy.deepcopy(state)
        change(changed)
        with pytest.raises(ValueError, match=match):
            transport_optimizer(changed, G, model)

    def rename(old, new):
        def change(s):
            s["state"][new] = s["state"].pop(old)
            for group in s["param_groups"]:
                group["params"] = [new if n == old else n for n in group["params"]]

        return change

    norm = "model.norm.weight"
    refused(rename(norm, "model.final.weight"), r"the model has no parameters model.final.weight; it has")
    refused(rename(norm, "module.lm_head.weight"), r"named or numbered twice: lm_head.weight")
    refused(rename(norm, 3), r"flattened or sharded")
    refused(rename(norm, "model._flat_param"), r"flattened or sharded.*got model._flat_param")
    refused(lambda s: s["param_groups"][0]["params"].pop(), r"holds parameters \['.*'\], which are in none")
    refused(lambda s: s["state"].pop(norm), r"trained parameters without a state.*model.norm.weight")
    refused(
        lambda s: s["state"][norm].update(exp_avg=torch.zeros(31)), r"exp_avg of model.norm.weight: expected"
    )
    flat = get_optimizer_state_dict(
        model, optimizer, options=StateDictOptions(full_state_dict=True, flatten_optimizer_state_dict=True)
    )
    with pytest.raises(
        ValueError, match=r"flattened \(flatten_optimizer_state_dict=True\); save it without"
    ) as e:
        transport_optimizer(flat, G, model)
    assert len(str(e.value)) < 500


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"state": [], "param_groups": []}, "state is a list"),
        ({"state": {}, "param_groups": {}}, "param_groups is a dict"),
        ({"state": {0.5: {}}, "param_groups": []}, "a parameter is numbered 0.5"),
        ({"state": {True: {}}, "param_groups": []}, "a parameter is numbered True"),
        ({"state": {0: 3}, "param_groups": []}, "the state of parameter 0 is no dict of named values"),
        ({"state": {0: {1: 2}}, "param_groups": []}, "the state of parameter 0 is no dict of named values"),
        ({"state": {}, "param_groups": [3]}, "a param_group is no dict of named options"),
        ({"state": {}, "param_groups": [{"lr": 1}]}, "a param_group has no list params"),
        ({"state": {}, "param_groups": [{"params": [None]}]}, "a param_group lists"),
        (
            {"state": {}, "param_groups": [{"params": [0], "param_names": [1]}]},
            "param_names is no list of names",
        ),
        ({"state": {0: {"exp_avg": torch.zeros(4, device="meta")}}, "param_groups": []}, None),
        ({"state": {0: {"exp_avg": torch.zeros(4).to_sparse()}}, "param_groups": []}, None),
    ],
)
def test_other_containers_are_refused(state, what):
    match = f"not a torch.optim state dict: {what}" if what else "expected a plain tensor, got torch."
    with pytest.raises(ValueError, match=match):
        transport_optimizer(state, G, tiny_model("llama", torch.Generator().manual_seed(1), D))
