"""Prompts of random tokens, and two sets of answers to them."""

import torch

from gaugeport.pipeline.measures.answer_slot import Prompts

WORDS = (torch.tensor([5, 6]), torch.tensor([7, 8]))


def token_rows(n, length, g):
    ids = torch.randint(3, 64, (n, length), generator=g)
    return Prompts(ids, torch.ones_like(ids), torch.full((n,), length - 1))
