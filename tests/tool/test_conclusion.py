"""What follows from an alignment, case by case."""

import math

import pytest

from gaugeport.tool.answer import percent
from gaugeport.tool.conclusion import Found, conclude

GOOD = {"identity": 0.0, "permutation": 0.2, "signed_permutation": 0.97, "orthogonal": 0.98, "affine": 0.98}
TURNED = {**GOOD, "signed_permutation": 0.3, "orthogonal": 0.7}


def found(**changes):
    return Found(
        **{
            "group": "signed_permutation", "doubtful": False, "not_ahead": 0.0, "explained": GOOD,
            "folded": (False, False),
        } | changes
    )  # fmt: skip


@pytest.mark.parametrize(
    ("case", "says", "usable"),
    [
        (found(), "one base: use this gauge", True),
        (found(explained={}), "one base: use this gauge", True),
        (found(folded=(False, True)), "if B is a folded or rotated copy, fold the gains of A first", False),
        (found(folded=(True, False)), "if A is a folded or rotated copy, fold the gains of B first", False),
        (
            found(doubtful=True, not_ahead=0.4, explained=TURNED),
            "independent models: B_d explains 0.30",
            False,
        ),
        (found(explained=TURNED), "B's stream has turned", True),
        (found(doubtful=True, not_ahead=0.4), "40 % of the coordinates have a better candidate", False),
        (found(doubtful=True, not_ahead=0.4, explained={}), "weights, or checkpoints (--along)", False),
        (found(doubtful=True, not_ahead=0.4, explained={}, walked=True), "(--evidence weights)", False),
        (found(group="orthogonal", not_ahead=math.nan), "no gauge of the weights", True),
        (found(group="affine", not_ahead=math.nan, folded=(True, True)), "no gauge of the weights", True),
        (found(group="orthogonal", not_ahead=math.nan, folded=(True, True)), "a gauge of both", True),
    ],
)
def test_conclusion(case, says, usable):
    sentence, can_be_used = conclude(case)
    assert says in sentence and can_be_used is usable


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.9999, "99.9 %"), (0.984, "98.4 %"), (0.5, "50 %"), (0.0, "0 %")]
)
def test_only_all_of_it_is_a_hundred_percent(share, text):
    assert percent(share) == text
