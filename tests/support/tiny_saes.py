"""Build small random SAEs of every architecture that sae-lens registers, for the tests of SAE transport."""

import warnings

import torch
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

D, N = 16, 64
EXTRA_CONFIG = {
    "topk": {"k": 5},
    "abstopk": {"k": 5},
    "batchtopk": {"k": 5},
    "matryoshka_batchtopk": {"k": 5, "matryoshka_widths": [16, N]},
    "matching_pursuit": {"max_iterations": 5},
    "temporal": {"n_heads": 2, "bottleneck_factor": 8, "kval_topk": 5},
}
"""What the config of an architecture needs besides its sizes."""

CASES = sorted(SAE_CLASS_REGISTRY) + [f"{a}-training" for a in sorted(SAE_TRAINING_CLASS_REGISTRY)]
"""Every architecture, for inference and for training."""


def build(case, dtype=torch.float64, **config):
    """Return a small SAE of an architecture, with all parameters and buffers random (thresholds positive)."""
    name, _, training = case.partition("-")
    cls, config_class = (SAE_TRAINING_CLASS_REGISTRY if training else SAE_CLASS_REGISTRY)[name]
    if "transcoder" in name:
        config = {"d_out": config.get("d_in", D), "apply_b_dec_to_input": False, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matching pursuit warns about its default decoder norm
        sae = cls(config_class(**{"d_in": D, "d_sae": N, **EXTRA_CONFIG.get(name, {}), **config}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, t in [*sae.named_parameters(), *sae.named_buffers()]:
            values = torch.randn(t.shape, generator=generator, dtype=torch.float64)
            t.copy_(values.abs() if "threshold" in key else values)
    return sae.to(dtype=dtype)


def element(cls, seed=1, d=D):
    """Draw a gauge of a class."""
    return cls.random(d, torch.Generator().manual_seed(seed))


def tokens(dtype=torch.float64, d=D):
    """Draw activations [sequence, token, d]."""
    return torch.randn(3, 7, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def gap(a, b):
    """Return the distance of ``a`` from ``b``, relative to ``b``."""
    return float((a - b).norm() / b.norm())
