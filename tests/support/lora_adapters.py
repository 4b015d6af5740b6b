"""Build tiny models with random adapters through the real peft, for the tests of LoRA transport."""

import copy
import warnings
from contextlib import nullcontext

import peft
import torch

from gaugeport.charts import chart_of
from gaugeport.charts.logit_change import logits_of, norms_in_float64
from gaugeport.groups import GlobalSignPermutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport.lora_rules import ROLES

D = 32


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(family, seed=0, **config):
    """Return a tiny model with untied embeddings and random gains."""
    return tiny_model(family, generator(seed), **{"tie_word_embeddings": False} | config)


def signed(model, seed=1):
    """Draw an element of the chart's largest group of signed permutations."""
    cls = GlobalSignPermutation if chart_of(model).norm == "layer" else SignedPermutation
    return cls.random(D, generator(seed))


def matrices(model, *roles):
    """Return the modules whose matrices have these roles in the chart (default: all on the stream)."""
    chart = chart_of(model)
    return [n.removesuffix(".weight") for role in roles or ROLES for n in chart.names(role)]


def attach(model, config):
    """Return a copy of the model with a new adapter of this config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**config)).eval()


@torch.no_grad()
def adapt(model, seed=5, **config):
    """Attach an adapter of random tensors, and return the adapted model, its state dict and its config.

    The tensors are large enough to change the logits.     The default targets are all matrices on the stream.
    Other keywords are options of peft's ``LoraConfig``.
    """
    if "modules_to_save" in config:  # keep those this family has, and put no LoRA on them
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
    """Return a copy of the model with the adapter that holds ``tensors``."""
    adapted = attach(model, config)
    result = peft.set_peft_model_state_dict(adapted, tensors)
    assert not result.unexpected_keys
    return adapted


def logits(model, tokens):
    """Return the logits; of a float64 model with its norms computed in float64 too."""
    double = next(model.parameters()).dtype == torch.float64
    with norms_in_float64(model) if double else nullcontext():
        return logits_of(model, tokens)


def as_dict(config):
    """Return a LoRA config as a dict of all its options."""
    return peft.LoraConfig(**config).to_dict()


def adapt_named(model, targets, saved):
    """Attach a random adapter to the named modules, with full copies of the modules ``saved``."""
    config = {"r": 3, "lora_alpha": 3, "target_modules": targets, "modules_to_save": saved}
    adapted, noise = attach(model, config), generator(5)
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape, generator=noise, dtype=p.dtype))
    return adapted, peft.get_peft_model_state_dict(adapted, save_embedding_layers=False), config
