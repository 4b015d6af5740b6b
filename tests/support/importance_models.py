"""Tiny models, batches and plants for tests of importance scores and index lists."""

import torch

from gaugeport.charts import chart_of
from gaugeport.groups import GlobalSignPermutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.importance import score_importance
from tiny_models import gen

D, N, K = 32, 48, 8
FAMILIES = ["llama", "gemma2", "olmo2", "phi3", "gpt_neox", "gpt2"]


def batches_of(n=2, rows=4, length=10, seed=0):
    return [{"input_ids": torch.randint(0, 64, (rows, length), generator=gen(seed + i))} for i in range(n)]


def scores(model, batches=None, site="block0", **options):
    return score_importance(model, batches or batches_of(), site, **{"ig_steps": 4, **options})


def wide(family, seed=0):
    return tiny_model(family, gen(seed)).double()


def plant_of(model, seed):
    cls = GlobalSignPermutation if chart_of(model).norm == "layer" else SignedPermutation
    return cls.random(D, gen(seed))
