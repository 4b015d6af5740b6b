"""Tiny models with adapters of random tensors that matter, through the real peft; for the tests of LoRA transport."""

import copy
import warnings

import peft
import torch

from gaugeport.charts import chart_of
from gaugeport.charts.logit_change import logits_of, norms_in_float64
from gaugeport.groups import GlobalSignPermutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport.lora import ROLES

D = 32


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(family, seed=0, **config):
    return tiny_model(family, generator(seed), **{"tie_word_embeddings": False} | config)


def signed(model, seed=1):
    cls = GlobalSignPermutation if chart_of(model).norm == "layer" else SignedPermutation
    return cls.random(D, generator(seed))


def matrices(model, *roles):
    chart = chart_of(model)
    return [n.removesuffix(".weight") for role in roles or ROLES for n in chart.names(role)]


def attach(model, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**config)).eval()


@torch.no_grad()
def adapt(model, seed=5, **config):
    """An adapter of random tensors that matter, as ``(adapted model, state dict, config)``."""
    if "modules_to_save" in config:  # those of this family, and no LoRA on them
        names = {n.rsplit(".", 1)[-1] for n, _ in model.named_modules()}
        config["modules_to_save"] = [m for m in config["modules_to_save"] if m in names]
        config["target_modules"] = matrices(model, "read", "write")
    config = {"r": 3, "lora_alpha": 3, "target_modules": matrices(model)} | config
    adapted, noise = attach(model, config), generator(seed)
    for name, p in adapted.named_parameters():
        if not p.requires_grad:
            continue
        draw = torch.randn(p.shape, generator=noise, dtype=p.dtype)
        if "lora_magnitude" in name:
            p.mul_(1 + 0.5 * torch.rand(p.shape, generator=noise, dtype=p.dtype))
        elif "lora_" in name and p.dim() == 2:
            p.copy_(draw * (2.0 / p.shape[1 if "lora_A" in name or "embedding_B" in name else 0]) ** 0.5)
        else:
            p.add_(0.3 * draw)
    return adapted, peft.get_peft_model_state_dict(adapted, save_embedding_layers=False), config


def with_adapter(model, tensors, config):
    adapted = attach(model, config)
    result = peft.set_peft_model_state_dict(adapted, tensors)
    assert not result.unexpected_keys
    return adapted


def logits(model, tokens):
    with (
        norms_in_float64(model)
        if next(model.parameters()).dtype == torch.float64
        else warnings.catch_warnings()
    ):
        return logits_of(model, tokens)


def as_dict(config):
    return peft.LoraConfig(**config).to_dict()


def adapt_named(model, targets, saved):
    config = {"r": 3, "lora_alpha": 3, "target_modules": targets, "modules_to_save": saved}
    adapted, noise = attach(model, config), generator(5)
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape, generator=noise, dtype=p.dtype))
    return adapted, peft.get_peft_model_state_dict(adapted, save_embedding_layers=False), config
