"""Dyck-3 strings: labels agree with a stack, and draws are reproducible."""

import pytest
import torch

from gaugeport.models.dyck import IGNORED
from gaugeport.pipeline.rotation.toy import strings as s
from gaugeport.pipeline.rotation.toy.training_strings import TrainingStrings


def labels_by_stack(ids):
    """Label one row with a stack of brackets and a debt of unmatched closers: running depths, and flags."""
    stack, debt, invalid, depths, flags = [], 0, False, [], []
    for token in ids:
        if token in (3, 4, 5):
            if debt:
                debt -= 1
            else:
                stack.append(token)
        elif token in (6, 7, 8):
            if not stack:
                debt, invalid = debt + 1, True
            elif stack.pop() != token - 3:
                invalid = True
        depths.append(min(len(stack), 8))
        flags.append(int(invalid))
    return depths, flags


def lengths(rows):
    """Return the number of brackets of every row."""
    return (rows["input_ids"] != s.PAD).sum(1) - 2


def final_depths(rows):
    """Return the depth label at EOS of every row."""
    last = (rows["input_ids"] == s.EOS).long().argmax(1)
    return rows["labels"][torch.arange(len(last)), last, 1]


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_of_a_stack(seed):
    gen = torch.Generator().manual_seed(seed)
    brackets = torch.randint(3, 9, (200, 62), generator=gen)
    brackets[:50] = torch.randint(3, 6, (50, 62), generator=gen)  # deeper than 8
    rows = s.label_rows(brackets, torch.randint(2, 63, (200,), generator=gen), 64, s.RUNNING)
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        kept = int((ids != s.PAD).sum())
        depths, flags = labels_by_stack(ids.tolist())
        assert labels[:kept, 0].tolist() == ids[:kept].tolist()
        assert labels[:kept, 1].tolist() == depths[:kept]
        assert labels[:kept, 2].tolist() == flags[:kept]
        assert (labels[kept:] == IGNORED).all()
    assert rows["labels"][..., 1].max() == 8


BY_HAND = [  # string, unmatched openers after each token, openers minus closers clamped to [0, 8]
    ("()", "10", "10"),
    ("((", "12", "12"),
    (")(", "01", "00"),
    ("(]", "11", "10"),
    ("(])", "110", "100"),
    ("([)]", "1221", "1210"),
    ("))((", "0012", "0000"),
    ("((((((((((", "1234567888", "1234567888"),
    ("((((((((()", "1234567888", "1234567888"),
    ("{}{", "101", "101"),
    ("[}]", "110", "100"),
    ("(()]", "1211", "1210"),
]


@pytest.mark.parametrize(("string", "unmatched", "running"), BY_HAND)
def test_depth_labels_by_hand(string, unmatched, running):
    ids = torch.tensor([[s.OPEN + "([{)]}".index(c) for c in string]])
    assert "".join(map(str, s.depth_labels(ids)[0].tolist())) == unmatched
    assert "".join(map(str, s.depth_labels(ids, s.RUNNING)[0].tolist())) == running


def test_unknown_depth_label_is_refused():
    with pytest.raises(ValueError, match="depth label 'sum'; allowed: unmatched, running"):
        s.heldout("train", 4, 62, 64, 0, "sum")


def test_depth_labels_agree_up_to_the_first_invalid_token():
    rows = s.draw_strings(2000, (2, 62), 64, torch.Generator().manual_seed(0))
    unmatched, running = (s.depth_labels(rows["input_ids"], label) for label in s.DEPTH_LABELS)
    kept, invalid = rows["labels"][..., 2] != IGNORED, rows["labels"][..., 2] == 1
    assert (unmatched == running)[kept & ~invalid].all()
    assert (unmatched >= running)[kept].all() and (unmatched > running)[invalid].any()
    assert torch.equal(rows["labels"][..., 1][kept], unmatched[kept])


@pytest.mark.parametrize("label", s.DEPTH_LABELS)
def test_every_draw_passes_its_label_on(label):
    for split in s.SPLITS:
        rows = s.heldout(split, 50, 62, 64, 0, label)
        depths = s.depth_labels(rows["input_ids"], label)
        assert torch.equal(rows["labels"][..., 1], depths.masked_fill(rows["input_ids"] == s.PAD, IGNORED))
    batch = TrainingStrings(1, 20, 62, 64, 0, label)[3]
    kept = batch["input_ids"] != s.PAD
    assert torch.equal(batch["labels"][kept, 1], s.depth_labels(batch["input_ids"][None], label)[0, kept])


def test_half_of_the_strings_are_valid_and_lengths_are_uniform():
    rows = s.draw_strings(20_000, (2, 62), 64, torch.Generator().manual_seed(0))
    ids, size = rows["input_ids"], lengths(rows)
    assert size.min() == 2 and size.max() == 62
    # uniform strings are seldom valid: most have more than four brackets
    valid = (rows["labels"][..., 2].max(1).values == 0) & (final_depths(rows) == 0)
    assert abs(valid.float().mean() - 0.5) < 0.02
    assert (size[valid] % 2 == 0).all()
    counts = torch.bincount(size[~valid], minlength=63)[6:].float()
    assert counts.std() < 3 * counts.mean().sqrt(), "lengths of uniform strings"
    assert rows["labels"][valid][..., 1].max() == 8, "the largest depth is reached and not exceeded"
    brackets = ids[(ids >= 3) & ~valid[:, None]]
    assert torch.allclose(torch.bincount(brackets)[3:9] / len(brackets), torch.tensor(1 / 6), atol=0.005)


def test_compositional_strings_nest_one_family_amid_shallow_pairs():
    rows = s.compositional(500, (2, 62), 64, torch.Generator().manual_seed(0))
    assert rows["labels"][..., 2].max() == 0 and (final_depths(rows) == 0).all()
    deepest = rows["labels"][..., 1].max(1).values
    assert set(deepest.tolist()) == {5, 6, 7, 8}
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        nested_openers = ids[(labels[:, 1] > 1) & s.is_open(ids[None])[0]]
        assert len(set(nested_openers.tolist())) == 1, "one family below the surface"


def test_long_strings_have_50_to_60_brackets():
    size = lengths(s.heldout("long", 300, 62, 64, 0))
    assert size.min() >= 50 and size.max() <= 60


def test_heldout_strings_are_decided_by_the_seed():
    first, second = (s.heldout("train", 50, 62, 64, seed)["input_ids"] for seed in (0, 1))
    again = s.heldout("train", 50, 62, 64, 0)["input_ids"]
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_training_strings_are_the_same_wherever_a_run_resumes():
    data = TrainingStrings(batches=4, batch_size=8, longest=18, length=20, seed=5)
    whole = [row["input_ids"] for row in data.__getitems__(list(range(32)))]
    assert torch.equal(data[19]["input_ids"], whole[19]) and len(data) == 32
    assert len({tuple(row.tolist()) for row in whole}) > 28, "batches differ"
    other = TrainingStrings(batches=4, batch_size=8, longest=18, length=20, seed=6)
    assert not torch.equal(other[0]["input_ids"], whole[0])


@pytest.mark.parametrize("pair", [(1, 10), (5, 4), (2, 19)])
def test_lengths_that_do_not_fit_are_refused(pair):
    with pytest.raises(ValueError, match=rf"\({pair[0]}, {pair[1]}\).*allowed: 2 to 18"):
        s.draw_strings(4, pair, 20, torch.Generator())


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'deep'; allowed: train, compositional, long"):
        s.heldout("deep", 4, 62, 64, 0)


def test_a_nest_without_room_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 14\) in rows of 16; allowed.*at least 16"):
        s.compositional(4, (2, 14), 16, torch.Generator())
