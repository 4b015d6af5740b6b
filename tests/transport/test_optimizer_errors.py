"""Test that optimizer states that cannot be moved are refused with the reason."""

import copy

import pytest
import torch

from gaugeport.charts import chart_of, fold_gains
from gaugeport.groups import AffineGauge, GlobalSignPermutation, Orthogonal, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.pipeline.measures.optimizer_recipes import RECIPES, build_optimizers, split_parameters
from gaugeport.transport.optimizer import transport_optimizer

D = 32
G = SignedPermutation.random(D, torch.Generator().manual_seed(0))
Q = Orthogonal.random(D, torch.Generator().manual_seed(0))


def trained(recipe="adamw", folded=False, frozen=False, steps=1):
    """Train a tiny Llama; return it, its optimizers' states, and the names of the parameters each trains."""
    generator = torch.Generator().manual_seed(1)
    model = tiny_model("llama", generator)
    model = fold_gains(model) if folded else model
    for name in chart_of(model).names("gain"):
        model.get_parameter(name).requires_grad_(not frozen)
    parts = split_parameters(RECIPES[recipe], chart_of(model), model)
    work = copy.deepcopy(model)  # so that a folded model stays folded
    optimizers = build_optimizers(RECIPES[recipe], parts, work)
    for _ in range(steps):
        tokens = torch.randint(0, 64, (2, 8), generator=generator)
        work(tokens, labels=tokens).loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
    return model, {r: o.state_dict() for r, o in optimizers.items()}, parts


def one(recipe="adamw", **options):
    """Return a trained model and the state of its first optimizer."""
    model, states, _ = trained(recipe, **options)
    return model, next(iter(states.values()))


# groups


@pytest.mark.parametrize("recipe", ["adam", "adamw", "lion", "adafactor_torch", "adafactor_transformers"])
def test_rotations_are_refused_for_entrywise_optimizers(recipe):
    model, state = one(recipe, folded=True, frozen=True)
    rule = next(iter(RECIPES[recipe].parts))
    rule = "adam" if rule == "adamw" else rule
    with pytest.raises(
        ValueError, match=rf"{rule} is covariant under 'signed_permutation' .*got .*'orthogonal': .*rotat"
    ):
        transport_optimizer(state, Q, model)
    transport_optimizer(state, G, model)  # control
    transport_optimizer(state, Q, model, strict=False)


@pytest.mark.parametrize("recipe", ["sgd", "muon_sgd"])
def test_rotations_need_frozen_gains(recipe):
    model, states, parts = trained(recipe, folded=True)
    for rule, state in states.items():
        with pytest.raises(ValueError, match=r"no norm gain is trained.*input_layernorm.weight.*Freeze them"):
            transport_optimizer(state, Q, model, names=parts[rule])
    model, states, parts = trained(recipe, folded=True, frozen=True)
    for rule, state in states.items():
        transport_optimizer(state, Q, model, names=parts[rule])


def test_gauges_that_do_not_fit_the_chart_are_refused():
    model, state = one("sgd", frozen=True)
    with pytest.raises(ValueError, match="not in the exact group of this llama chart, 'signed_permutation'"):
        transport_optimizer(state, Q, model)
    with pytest.raises(ValueError, match=r"width 8; expected 32, .*llama"):
        transport_optimizer(state, SignedPermutation.identity(8), model, strict=False)
    with pytest.raises(ValueError, match=r"linear gauge, got .*'affine'"):
        transport_optimizer(state, AffineGauge.identity(D), model, strict=False)
    layer = tiny_model("gpt_neox", torch.Generator().manual_seed(0))
    empty = torch.optim.SGD(layer.parameters(), lr=0.1).state_dict()
    with pytest.raises(ValueError, match="global_sign_permutation"):
        transport_optimizer(empty, G, layer)
    transport_optimizer(empty, GlobalSignPermutation.identity(D), layer)


# which optimizer


@pytest.mark.parametrize(
    "cls", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adamax, torch.optim.Adadelta]
)
def test_unknown_optimizers_are_refused(cls):
    model = tiny_model("llama", torch.Generator().manual_seed(0))
    optimizer = cls(model.parameters(), lr=1e-3)
    tokens = torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(0))
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    with pytest.raises(
        ValueError, match=r"no rule for an optimizer .*known: adam \(step.*sgd \(.*lion.*adafactor.*muon"
    ):
        transport_optimizer(optimizer.state_dict(), G, model)


def test_ambiguous_states_need_the_optimizers_name():
    model, states, parts = trained("muon_sgd")
    state = copy.deepcopy(states["muon"])
    state["param_groups"] = [{"params": state["param_groups"][0]["params"], "lr": 0.1}]
    with pytest.raises(ValueError, match=r"momentum_buffer may be that of sgd or muon.*optimizer='sgd'"):
        transport_optimizer(state, G, model, names=parts["muon"])
    transport_optimizer(state, G, model, names=parts["muon"], optimizer="muon")
    model, state = one("adamw", steps=0)
    state["param_groups"] = [{"params": state["param_groups"][0]["params"], "lr": 0.1}]
    with pytest.raises(ValueError, match="an empty state may be that of adam or"):
        transport_optimizer(state, G, model)


def test_wrong_optimizer_names_are_refused():
    model, state = one("adamw")
    with pytest.raises(ValueError, match="no rule for optimizer 'rmsprop'; allowed: adam, adamw, sgd"):
        transport_optimizer(state, G, model, optimizer="rmsprop")
    with pytest.raises(ValueError, match="holds exp_avg, exp_avg_sq, step, which sgd does not keep"):
        transport_optimizer(state, G, model, optimizer="sgd")


# which parameter


def test_reordered_parameters_are_refused():
    model, state = one("adamw")
    names = [n for n, _ in model.named_parameters()]
    with pytest.raises(ValueError, match=r"do not fit the named parameters: exp_avg of .* another order"):
        transport_optimizer(state, G, model, names=names[::-1])
    state["param_groups"][0]["param_names"] = names
    with pytest.raises(ValueError, match="names= and the state's own param_names disagree"):
        transport_optimizer(state, G, model, names=names[::-1])
    transport_optimizer(state, G, model, names=names)


def test_another_number_of_parameters_is_refused():
    model, state = one("adamw")
    names = [n for n, _ in model.named_parameters()]
    with pytest.raises(ValueError, match=r"expected 20 parameters .*holds 21"):
        transport_optimizer(state, G, model, names=names[:-1])
    state["param_groups"][0]["params"].pop()
    with pytest.raises(ValueError, match=r"expected 21 parameters .*holds 20"):
        transport_optimizer(state, G, model)
    with pytest.raises(ValueError, match=r"holds parameters \[20\], .*none of its param_groups"):
        transport_optimizer(state, G, model, names=names[:-1])


def test_missing_states_are_refused():
    model, state = one("adamw")
    del state["state"][3]
    with pytest.raises(
        ValueError, match=r"without a state, although others have one: model.layers.0.self_attn.v_proj"
    ):
        transport_optimizer(state, G, model)
    model.model.layers[0].self_attn.v_proj.weight.requires_grad_(False)
    transport_optimizer(state, G, model, names=[n for n, _ in model.named_parameters()])


def test_unknown_and_repeated_names_are_refused():
    model, state = one("adamw")
    names = [n for n, _ in model.named_parameters()]
    with pytest.raises(
        ValueError, match=r"has no parameters score.lm_head.weight; it has model.embed_tokens.weight"
    ):
        transport_optimizer(state, G, model, names=[*names[:-1], "score.lm_head.weight"])
    with pytest.raises(ValueError, match=r"named or numbered twice: lm_head.weight"):
        transport_optimizer(state, G, model, names=[*names[1:], "lm_head.weight"])


def test_several_groups_without_names_are_refused():
    model, state = one("adamw")
    group = state["param_groups"][0]
    state["param_groups"] = [
        {**group, "params": group["params"][:5]},
        {**group, "params": group["params"][5:]},
    ]
    with pytest.raises(ValueError, match=r"2 param_groups and no param_names.*names=.*trainer_names"):
        transport_optimizer(state, G, model)


def test_a_state_dict_needs_a_model_and_takes_no_out():
    _, state = one("adamw")
    with pytest.raises(ValueError, match="needs model="):
        transport_optimizer(state, G)
    with pytest.raises(ValueError, match="out= needs a checkpoint folder"):
        transport_optimizer(state, G, out="somewhere")


# layouts


def test_quantized_states_are_refused():
    model, state = one("adamw")
    for entries in state["state"].values():
        entries["exp_avg"] = entries["exp_avg"].to(torch.uint8)
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 is torch.uint8: an 8-bit optimizer state"):
        transport_optimizer(state, G, model)
    _, state = one("adamw")
    state["state"][0]["qmap1"] = torch.zeros(256)
    with pytest.raises(ValueError, match="8-bit"):
        transport_optimizer(state, G, model)


@pytest.mark.parametrize(
    "state",
    [
        {"fp32_flat_groups": [torch.zeros(4)], "base_optimizer_state": {}},
        {"state": {"_fsdp_wrapped_module._flat_param": {"exp_avg": torch.zeros(9)}}, "param_groups": []},
        {"state": {0: {"flat_exp_avg": torch.zeros(9)}}, "param_groups": [{"params": [0]}]},
    ],
)
def test_flattened_and_sharded_states_are_refused(state):
    model, _ = one("adamw", steps=0)
    with pytest.raises(ValueError, match="flattened or sharded"):
        transport_optimizer(state, G, model)


def test_tensor_subclasses_and_other_objects_are_refused():
    class Shard(torch.Tensor):
        pass

    model, state = one("adamw")
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].as_subclass(Shard)
    with pytest.raises(ValueError, match=r"plain tensor, got a Shard"):
        transport_optimizer(state, G, model)
    for other in ({"model": 1}, [1]):
        with pytest.raises(
            ValueError,
            match=r"not a torch.optim state dict: expected .*state and param_groups, got (model|list)",
        ):
            transport_optimizer(other, G, model)


def test_16_bits_are_refused_unless_allowed():
    model, state = one("adamw")
    for entries in state["state"].values():
        entries["exp_avg"] = entries["exp_avg"].bfloat16()
    with pytest.raises(
        ValueError, match=r"16-bit .*exp_avg of parameter 0 \(torch.bfloat16\).*allow_half=True"
    ):
        transport_optimizer(state, G, model)
    transport_optimizer(state, G, model, allow_half=True)


# models


DROPOUT = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.2},
    "phi3": {"resid_pdrop": 0.2},
    "gpt_neox": {"hidden_dropout": 0.2},
}


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_dropout_is_refused_in_every_family(family):
    generator = torch.Generator().manual_seed(0)
    model = tiny_model(family, generator, **DROPOUT.get(family, {"attention_dropout": 0.2}))
    state = torch.optim.SGD(model.parameters(), lr=0.1).state_dict()
    g = GlobalSignPermutation.random(D, generator)
    with pytest.raises(ValueError, match=r"dropout is on \(.*=0.2.*allow_dropout=True"):
        transport_optimizer(state, g, model)
    transport_optimizer(state, g, model, allow_dropout=True)
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if family == "gpt2" else {}
    transport_optimizer(state, g, tiny_model(family, generator, **off))


def test_adapters_are_refused():
    from peft import LoraConfig, get_peft_model

    model, state = one("adamw")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"carries adapters; .*transport_lora"):
        transport_optimizer(state, G, adapted)
