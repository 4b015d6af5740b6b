"""The features of the task agree with a stack, position by position."""

import pytest
import torch

from gaugeport.pipeline.rotation.lenses.task_features import KIND, task_features
from gaugeport.pipeline.rotation.toy.strings import CLOSE, OPEN, invalid_labels


def test_features_are_those_of_a_stack(rows):
    ids, features = rows["input_ids"], task_features(rows, 20)
    assert set(features) == set(KIND) and all(x.shape == ids.shape for x in features.values())
    for i, tokens in enumerate(ids.tolist()):
        stack, invalid_so_far, balance = [], 0, [0, 0, 0]
        for t, token in enumerate(tokens[: int(rows["attention_mask"][i].sum())]):
            top_before, invalid_before, family, invalid = (stack or [None])[-1], invalid_so_far, None, False
            if OPEN <= token < CLOSE:
                family = token - OPEN
                stack.append(family)
                balance[family] += 1
            elif CLOSE <= token < CLOSE + 3:
                family = token - CLOSE
                invalid = not stack or stack[-1] != family
                stack = stack[:-1]
                balance[family] -= 1
            invalid_so_far += invalid
            at = {name: float(x[i, t]) for name, x in features.items()}
            own = 0 if family is None else balance[family]
            assert at["local_invalid"] == invalid and at["sticky_invalid"] == (invalid_so_far > 0)
            assert at["invalid_density"] == pytest.approx(invalid_so_far / (t + 1), abs=1e-6)
            assert at["raw_average_depth"] == pytest.approx(sum(balance) / (t + 1), abs=1e-6)
            assert at["own_balance"] == pytest.approx(own / (t + 1), abs=1e-6)
            for f in range(3):
                assert at[f"met_{f}"] == (top_before == f and invalid_before == 0)
                assert at[f"top_{f}"] == (bool(stack) and stack[-1] == f and invalid_so_far == 0)
    assert torch.equal((features["local_invalid"].cumsum(1) > 0).long(), invalid_labels(ids))
