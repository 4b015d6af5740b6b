"""Test that optimizer states move as theory says: bit-equal under signs, else as if accumulated moved."""

import copy

import pytest
import torch

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import norms_in_float64, random_tokens
from gaugeport.groups import GlobalSignPermutation, Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.pipeline.measures.optimizer_recipes import RECIPES, build_optimizers, split_parameters
from gaugeport.transport import transport_model
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.optimizer_rules import OPTIMIZERS, infer_optimizer

D = 32
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
each_recipe = pytest.mark.parametrize("recipe", RECIPES)


def setting(family="llama", dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = tiny_model(family, generator, D, **(NO_DROPOUT if family == "gpt2" else {})).to(dtype)
    return model, [random_tokens(model, generator) for _ in range(8)], generator


def fresh(recipe, model):
    """Return the recipe's optimizers over ``model``, and the names of the parameters that each trains."""
    parts = split_parameters(RECIPES[recipe], chart_of(model), model)
    return build_optimizers(RECIPES[recipe], parts, model), parts


def train(model, optimizers, batches):
    for tokens in batches:
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()


def states_of(optimizers):
    return {rule: copy.deepcopy(o.state_dict()) for rule, o in optimizers.items()}


def carry(states, g, model, parts, **options):
    return {
        r: transport_optimizer(s, g, model, names=parts[r], optimizer=r, **options) for r, s in states.items()
    }


def resumed(recipe, model, states, batches):
    optimizers, _ = fresh(recipe, model)
    for rule, state in states.items():
        optimizers[rule].load_state_dict(copy.deepcopy(state))
    train(model, optimizers, batches)
    return model


def differing(a, b):
    return [
        n for (n, p), q in zip(a.named_parameters(), b.parameters(), strict=True) if not torch.equal(p, q)
    ]


def signs_only(model, generator):
    if chart_of(model).norm == "layer":
        return GlobalSignPermutation(torch.arange(D), torch.tensor(-1))
    return SignedPermutation(torch.arange(D), SignedPermutation.random(D, generator).sign)


def five_steps(recipe, family="llama", dtype=torch.float32, **options):
    """Run five steps as they are, moved by signs, and moved with a state without signs.

    All three end models are returned in the coordinates of A.
    """
    model, batches, generator = setting(family, dtype)
    optimizers, parts = fresh(recipe, model)
    train(model, optimizers, batches[:3])
    states, g = states_of(optimizers), signs_only(model, generator)
    ends = [resumed(recipe, copy.deepcopy(model), states, batches[3:])]
    for of_state in (g, g.without_signs()):
        moved = resumed(
            recipe, transport_model(model, g), carry(states, of_state, model, parts, **options), batches[3:]
        )
        ends.append(transport_model(moved, g.inverse()))
    return ends


# under signs everything is exact


@each_recipe
def test_signs_leave_five_steps_bit_equal(recipe):
    reference, moved, unsigned = five_steps(recipe)
    assert differing(reference, moved) == []
    assert (
        bool(differing(reference, unsigned)) == RECIPES[recipe].momentum
    )  # control: only momentum has signs


@pytest.mark.parametrize("family", [t for t in MODEL_TYPES if t != "llama"])
def test_signs_leave_five_steps_bit_equal_in_every_family(family):
    reference, moved, unsigned = five_steps("adamw", family)
    assert differing(reference, moved) == [] and differing(reference, unsigned) != []


def test_signs_leave_five_steps_bit_equal_in_bfloat16():
    reference, moved, unsigned = five_steps("adamw", dtype=torch.bfloat16, allow_half=True)
    assert differing(reference, moved) == [] and differing(reference, unsigned) != []


# moving a state gives the state that is accumulated in the moved coordinates


def accumulated(recipe, model, batches):
    """Return the states after a few steps from scratch, with everything in float64."""
    optimizers, parts = fresh(recipe, model)
    with norms_in_float64(model):
        for tokens in batches:
            model.zero_grad()
            logits = model(tokens).logits[:, :-1]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            for optimizer in optimizers.values():
                optimizer.step()
    return states_of(optimizers), parts


def worst_difference(a, b):
    worst = 0.0
    for rule, state in a.items():
        assert state["param_groups"] == b[rule]["param_groups"]
        assert state["state"].keys() == b[rule]["state"].keys()
        for index, entries in state["state"].items():
            other_entries = b[rule]["state"][index]
            assert entries.keys() == other_entries.keys()
            for key, x in entries.items():
                y = torch.as_tensor(other_entries[key]).double()
                x = torch.as_tensor(x).double()
                assert x.shape == y.shape
                worst = max(worst, float((x - y).norm() / (y.norm() + 1e-300)))
    return worst


@pytest.mark.parametrize("recipe", [r for r in RECIPES if not r.startswith("muon")])
def test_moved_states_equal_those_accumulated_in_the_moved_coordinates(recipe):
    model, batches, generator = setting(dtype=torch.float64)
    g = SignedPermutation.random(D, generator)
    expected, _ = accumulated(recipe, transport_model(model, g), batches[:3])
    states, parts = accumulated(recipe, copy.deepcopy(model), batches[:3])
    assert worst_difference(carry(states, g, model, parts), expected) <= 1e-10
    other = SignedPermutation.random(D, generator)
    assert worst_difference(carry(states, other, model, parts), expected) > 1e-1


def test_sgd_momentum_rotates_if_gains_are_frozen():
    model, batches, generator = setting(dtype=torch.float64)
    model = fold_gains(model)
    for name in chart_of(model).names("gain"):
        model.get_parameter(name).requires_grad_(False)
    g = Orthogonal.random(D, generator)
    expected, _ = accumulated("sgd", transport_model(model, g), batches[:3])
    states, parts = accumulated("sgd", copy.deepcopy(model), batches[:3])
    assert worst_difference(carry(states, g, model, parts), expected) <= 1e-10


# round trips, and what stays the same


@each_recipe
def test_round_trips_are_bit_equal_and_the_input_is_unchanged(recipe):
    model, batches, generator = setting()
    optimizers, parts = fresh(recipe, model)
    train(model, optimizers, batches[:2])
    states, g = states_of(optimizers), SignedPermutation.random(D, generator)
    original = copy.deepcopy(states)
    moved = carry(states, g, model, parts)
    assert worst_difference(states, original) == 0.0 and worst_difference(moved, original) > 1e-1
    assert worst_difference(carry(moved, g.inverse(), transport_model(model, g), parts), original) == 0.0
    for rule, state in moved.items():
        for index, entries in state["state"].items():
            for key, x in entries.items():
                if torch.is_tensor(x) and x.dim():
                    x.fill_(7.0)  # nothing is shared with the input
                    assert not torch.equal(x, states[rule]["state"][index][key])


def test_steps_and_options_stay_the_same():
    model, batches, generator = setting()
    optimizer = torch.optim.Adam(
        [{"params": list(model.parameters()), "lr": 1e-3}], betas=(0.8, 0.9), fused=True
    )
    train(model, {"adam": optimizer}, batches[:2])
    moved = transport_optimizer(optimizer.state_dict(), SignedPermutation.random(D, generator), model)
    assert moved["param_groups"] == optimizer.state_dict()["param_groups"]
    assert all(entries["step"] == 2.0 for entries in moved["state"].values())
    torch.optim.Adam(model.parameters()).load_state_dict(moved)


def test_an_empty_state_moves_to_an_empty_state():
    model, _, generator = setting()
    state = torch.optim.SGD(model.parameters(), lr=0.1).state_dict()
    assert transport_optimizer(state, SignedPermutation.random(D, generator), model) == state


# which state belongs to which parameter


def as_its_parameter(g, model, name, optimizer):
    """Return the first moment of a parameter, moved axis by axis as the chart says."""
    moved = optimizer.state[dict(model.named_parameters())[name]]["exp_avg"]
    for axis, kind in enumerate(chart_of(model).axes(name)):
        moved = {"vector": g.act, "gain": g.act_gain}.get(kind, lambda x, _: x)(moved, axis)
    return moved


def test_parameter_names_in_the_state_override_the_models_order():
    model, batches, generator = setting()
    pairs = list(model.named_parameters())[::-1]
    optimizer = torch.optim.AdamW(pairs, lr=1e-2)
    train(model, {"adamw": optimizer}, batches[:2])
    g = SignedPermutation.random(D, generator)
    moved = transport_optimizer(optimizer.state_dict(), g, model)
    for index, (name, _) in enumerate(pairs):
        first_moment = moved["state"][index]["exp_avg"]
        assert torch.equal(first_moment, as_its_parameter(g, model, name, optimizer)), name


def test_default_order_skips_frozen_parameters():
    model, batches, generator = setting()
    model.get_input_embeddings().weight.requires_grad_(False)
    named = dict(model.named_parameters())
    for names in ([n for n, p in named.items() if p.requires_grad], list(named)):
        optimizer = torch.optim.AdamW([named[n] for n in names], lr=1e-2)
        train(model, {"adamw": optimizer}, batches[:2])
        g = SignedPermutation.random(D, generator)
        moved = transport_optimizer(optimizer.state_dict(), g, model)["state"]
        assert moved.keys() == optimizer.state_dict()["state"].keys()
        for index, entries in moved.items():
            name = names[index]
            assert torch.equal(entries["exp_avg"], as_its_parameter(g, model, name, optimizer)), name


def test_one_optimizer_may_join_muon_and_adam():
    """The keys of each param_group's states tell its optimizer, as in Keller Jordan's MuonWithAuxAdam."""
    model, batches, generator = setting()
    optimizers, parts = fresh("muon_adam", model)
    train(model, optimizers, batches[:2])
    muon, adam = (states_of(optimizers)[r] for r in ("muon", "adam"))
    n = len(parts["muon"])
    adam["param_groups"][0]["params"] = [i + n for i in adam["param_groups"][0]["params"]]
    joined = {
        "state": muon["state"] | {i + n: entries for i, entries in adam["state"].items()},
        "param_groups": [*muon["param_groups"], *adam["param_groups"]],
    }
    g, names = SignedPermutation.random(D, generator), parts["muon"] + parts["adam"]
    moved = transport_optimizer(joined, g, model, names=names)
    separate = carry(states_of(optimizers), g, model, parts)
    for index, entries in moved["state"].items():
        expected = separate["muon"]["state"][index] if index < n else separate["adam"]["state"][index - n]
        assert all(torch.equal(entries[k], expected[k]) for k in entries)


# the rules


def test_optimizers_are_inferred_from_their_states():
    for name, recipe in RECIPES.items():
        model, batches, _ = setting()
        optimizers, parts = fresh(name, model)
        train(model, optimizers, batches[:1])
        for rule, state in states_of(optimizers).items():
            group = state["param_groups"][0]
            keys = {k for entries in state["state"].values() for k in entries}
            inferred = infer_optimizer(group, keys, [model.get_parameter(n).dim() for n in parts[rule]])
            assert OPTIMIZERS[inferred] is OPTIMIZERS[rule], (name, recipe)


def test_permutations_move_both_moments_alike():
    model, batches, generator = setting()
    optimizers, parts = fresh("adamw", model)
    train(model, optimizers, batches[:2])
    g = Permutation.random(D, generator)
    moved = carry(states_of(optimizers), g, model, parts)["adamw"]
    index = parts["adamw"].index("model.embed_tokens.weight")
    before = optimizers["adamw"].state_dict()["state"][index]
    assert torch.equal(moved["state"][index]["exp_avg"], before["exp_avg"][:, g.perm])
    assert torch.equal(moved["state"][index]["exp_avg_sq"], before["exp_avg_sq"][:, g.perm])
