"""Dyck-3 strings: labels against a brute-force stack, what the three splits hold, an infinite stream that resumes."""

import pytest
import torch

from gaugeport.models.dyck import IGNORED
from gaugeport.pipeline.rotation.toy import strings as s


def by_stack(ids):
    """Depth and validity of one row, by the definition: a stack of brackets, and a debt of closers that met none."""
    stack, debt, broken, depths, flags = [], 0, False, [], []
    for token in ids:
        if token in (3, 4, 5):
            if debt:
                debt -= 1
            else:
                stack.append(token)
        elif token in (6, 7, 8):
            if not stack:
                debt, broken = debt + 1, True
            elif stack.pop() != token - 3:
                broken = True
        depths.append(min(len(stack), 8))
        flags.append(int(broken))
    return depths, flags


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_of_a_stack(seed):
    gen = torch.Generator().manual_seed(seed)
    brackets = torch.randint(3, 9, (200, 62), generator=gen)
    brackets[:50] = torch.randint(3, 6, (50, 62), generator=gen)  # deeper than 8
    found = s.label_rows(brackets, torch.randint(2, 63, (200,), generator=gen), 64)
    for ids, labels in zip(found["input_ids"], found["labels"], strict=True):
        kept = int((ids != s.PAD).sum())
        depths, flags = by_stack(ids.tolist())
        assert labels[:kept, 0].tolist() == ids[:kept].tolist()
        assert labels[:kept, 1].tolist() == depths[:kept]
        assert labels[:kept, 2].tolist() == flags[:kept]
        assert (labels[kept:] == IGNORED).all()
    assert found["labels"][..., 1].max() == 8


def test_depth_is_the_height_of_a_plain_stack_until_something_is_invalid():
    """Behind that it is openers minus closers, and the paper's "unmatched openers" would be more in places."""
    found = s.draw_strings(2000, (2, 62), 64, torch.Generator().manual_seed(0))
    differ = total = 0
    for ids, labels in zip(found["input_ids"].tolist(), found["labels"].tolist(), strict=True):
        unmatched = 0
        for token, (_, depth, bad) in zip(ids, labels, strict=True):
            if depth == IGNORED:
                break
            unmatched += 1 if token in (3, 4, 5) else -1 if token in (6, 7, 8) and unmatched else 0
            total += 1
            differ += depth != min(unmatched, 8)
            assert bad or depth == min(unmatched, 8)
    assert 0.2 < differ / total < 0.35, "three positions in ten, as the docstring says"


def test_half_of_a_draw_is_valid_and_lengths_are_uniform():
    found = s.draw_strings(20_000, (2, 62), 64, torch.Generator().manual_seed(0))
    ids = found["input_ids"]
    size = (ids != s.PAD).sum(1) - 2
    assert size.min() == 2 and size.max() == 62
    words = (found["labels"][..., 2].max(1).values == 0) & (_final_depth(found) == 0)
    # uniform strings are complete words too rarely to matter: most are of more than four brackets
    assert abs(words.float().mean() - 0.5) < 0.02
    assert (size[words] % 2 == 0).all()
    counts = torch.bincount(size[~words], minlength=63)[6:].float()
    assert counts.std() < 3 * counts.mean().sqrt(), "lengths of uniform strings"
    assert found["labels"][words][..., 1].max() == 8, "bounded depth is reached, and not passed"
    brackets = ids[(ids >= 3) & ~words[:, None]]
    assert torch.allclose(torch.bincount(brackets)[3:9] / len(brackets), torch.tensor(1 / 6), atol=0.005)


def test_the_compositional_split_nests_one_family_amid_shallow_pairs():
    found = s.compositional(500, (2, 62), 64, torch.Generator().manual_seed(0))
    assert found["labels"][..., 2].max() == 0 and (_final_depth(found) == 0).all()
    deepest = found["labels"][..., 1].max(1).values
    assert set(deepest.tolist()) == {5, 6, 7, 8}
    for ids, labels in zip(found["input_ids"], found["labels"], strict=True):
        deep = ids[(labels[:, 1] > 1) & s.is_open(ids[None])[0]]
        assert len(set(deep.tolist())) == 1, "one family below the surface"


def test_long_strings_are_long_and_splits_differ():
    sizes = (s.heldout("long", 300, 62, 64, 0)["input_ids"] != s.PAD).sum(1) - 2
    assert sizes.min() >= 50 and sizes.max() <= 60
    one, two = (s.heldout("train", 50, 62, 64, seed)["input_ids"] for seed in (0, 1))
    assert torch.equal(one, s.heldout("train", 50, 62, 64, 0)["input_ids"]) and not torch.equal(one, two)


def test_training_strings_are_the_same_wherever_a_run_resumes():
    data = s.TrainingStrings(batches=4, batch_size=8, longest=18, length=20, seed=5)
    whole = [row["input_ids"] for row in data.__getitems__(list(range(32)))]
    assert torch.equal(data[19]["input_ids"], whole[19]) and len(data) == 32
    assert len({tuple(row.tolist()) for row in whole}) > 28, "batches differ"
    other = s.TrainingStrings(batches=4, batch_size=8, longest=18, length=20, seed=6)
    assert not torch.equal(other[0]["input_ids"], whole[0])


@pytest.mark.parametrize("lengths", [(1, 10), (5, 4), (2, 19)])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match="allowed: 2 to 18"):
        s.draw_strings(4, lengths, 20, torch.Generator())


def test_unknown_split_and_nests_without_room_are_refused():
    with pytest.raises(ValueError, match="allowed: train, compositional, long"):
        s.heldout("deep", 4, 62, 64, 0)
    with pytest.raises(ValueError, match=r"\(2, 14\).*allowed.*at least 16"):
        s.compositional(4, (2, 14), 16, torch.Generator())


def _final_depth(found):
    last = (found["input_ids"] == s.EOS).long().argmax(1)
    return found["labels"][torch.arange(len(last)), last, 1]
