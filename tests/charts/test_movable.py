"""Check that offloaded, quantized and secretly shared parameters raise before anything is changed."""

import copy

import accelerate
import pytest
import torch
from torch import nn

import gaugeport as gp
from gaugeport.pipeline.measures.gauge_groups import tiny_model


def tiny(family="llama", seed=0, **config):
    return tiny_model(family, torch.Generator().manual_seed(seed), **config)


def gauge():
    return gp.SignedPermutation.random(32, torch.Generator().manual_seed(1))


def offloaded():
    model = tiny()
    accelerate.cpu_offload(model.model.layers[1], execution_device=torch.device("cpu"))
    return model


def quantized():
    model = tiny()
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            scale = module.weight.abs().amax(1, keepdim=True) / 127
            module.weight = nn.Parameter((module.weight / scale).round().to(torch.int8), requires_grad=False)
    return model


USES = {
    "transport_model": lambda m: gp.transport_model(m, gauge(), inplace=True),
    "fold_gains": lambda m: gp.fold_gains(m, inplace=True),
    "merge": lambda m: gp.merge([tiny(), m], [None, gauge()]),
    "certify": lambda m: gp.certify(m),
    "weights": lambda m: gp.align(tiny(), m, evidence="weights"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (offloaded, r"offloaded.*\['model.layers.1.self_attn.q_proj.weight'.*load the model whole"),
        (
            quantized,
            r"14 parameters are quantized.*\['model.layers.0.self_attn.q_proj.weight \(torch.int8\)'",
        ),
    ],
)
def test_offloaded_and_quantized_models_raise_before_anything_changes(use, broken, words):
    model = broken()
    before = {n: p.clone() for n, p in model.named_parameters() if not p.is_meta}
    with pytest.raises(ValueError, match=words):
        USES[use](model)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if not p.is_meta)


@pytest.mark.parametrize("part", [lambda m: m.model.layers[1], lambda m: m], ids=["a block", "all of it"])
def test_activations_of_offloaded_models_can_be_aligned(part):
    g = gauge()
    moved = gp.transport_model(tiny(), g)
    accelerate.cpu_offload(part(moved), execution_device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(2)
    batches = [{"input_ids": torch.randint(0, 64, (8, 16), generator=generator)} for _ in range(6)]
    assert gp.align(tiny(), moved, batches).gauge == g


@pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a second device")
@pytest.mark.parametrize("sides", [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("kept_in_files", [False, True])
def test_models_on_two_devices_can_be_aligned(sides, kept_in_files):
    g = gauge()
    a, b = (m.to(device) for m, device in zip((tiny(), gp.transport_model(tiny(), g)), sides, strict=True))
    generator = torch.Generator().manual_seed(2)
    batches = [{"input_ids": torch.randint(0, 64, (8, 16), generator=generator)} for _ in range(6)]
    given = (lambda: a, lambda: b) if kept_in_files else (a, b)
    assert gp.align(*given, batches).gauge == g


@pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a second device")
def test_model_whose_blocks_lie_on_two_devices_has_the_streams_of_one_that_does_not(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    places = {f"model.{part}": "cpu" for part in ("embed_tokens", "rotary_emb", "layers.0")}
    places |= {"model.layers.1": "cuda:0", "model.norm": "cuda:0", "lm_head": "cpu"}
    split, ids = gp.load_model(tmp_path, device_map=places), torch.arange(40).view(4, 10)
    ev = gp.evidence(model, split, [{"input_ids": ids}])
    assert min(ev.explained(gp.SignedPermutation.identity(32)).values()) > 0.999


@pytest.mark.parametrize("use", ["transport_model", "fold_gains"])
def test_untied_parameters_that_share_memory_raise(use):
    model = tiny(tie_word_embeddings=False)
    model.lm_head.weight = nn.Parameter(
        model.model.embed_tokens.weight
    )  # without .clone(): the memory is shared
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"model.embed_tokens.weight and lm_head.weight share memory"):
        USES[use](model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    gp.transport_model(model, gauge())  # a copied model has two tensors
