"""Models of the two kinds of norm, and gauges to plant between them, for tests of ``align``."""

from gaugeport.groups import GlobalSignPermutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from tiny_models import gen

D = 32
LLAMA, NEOX = "llama", "gpt_neox"
EVIDENCE = ("activations", "weights", "both")


def model_of(family, seed=0, **config):
    return tiny_model(family, gen(seed), **config)


def planted(family, seed=1):
    return (SignedPermutation if family == LLAMA else GlobalSignPermutation).random(D, gen(seed))
