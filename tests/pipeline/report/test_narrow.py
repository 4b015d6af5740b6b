"""Narrow tables: which rows and columns of a wide one are shown, and how short its cells are."""

import pandas as pd
import pytest

from gaugeport.pipeline.report.narrow import WIDTH, Narrow, shorten, width_of
from gaugeport.pipeline.report.tables import without_constant_n

WIDE = pd.DataFrame(
    {
        "model": ["tinyllama", "tinyllama", "qwen"],
        "setting": ["default", "lr=0.03", "default"],
        "condition": ["B_d, signs dropped", "B_d", "B_d"],
        "accuracy": ["0.623 [0.500, 0.747]", "1.000 [1.000, 1.000]", "-0.500 [-1.000, 0.000] (n 2)"],
        "step": ["1.5e-03 [1.0e-03, 2.0e-03]", "0.25 (0.10 to 0.40)", "–"],
        "n": [5.0, 5.0, 3.0],
    }
)


def test_declared_columns_are_renamed_and_missing_ones_left_out():
    shown = Narrow(columns={"condition": "gauge", "absent": "absent", "n": "n"})(WIDE)
    assert list(shown.columns) == ["gauge", "n"] and list(shown["n"]) == ["5", "3"]


def test_rows_are_those_that_meet_one_of_several_conditions():
    rows = [{"model": "tinyllama", "setting": "lr=0.03"}, {"model": ("qwen", "pythia")}]
    assert list(Narrow(columns={"model": "model"}, rows=rows)(WIDE)["model"]) == ["tinyllama", "qwen"]


def test_without_rows_declared_only_the_default_setting_is_shown():
    assert list(Narrow(columns={"model": "model"})(WIDE)["model"]) == ["tinyllama", "qwen"]


def test_a_filter_that_no_row_meets_shows_all_rows():
    assert len(Narrow(columns={"model": "model"}, rows={"model": "pythia"})(WIDE)) == 3


def test_cells_drop_leading_zeros_and_intervals_without_width():
    assert list(shorten(WIDE)["accuracy"]) == [".623 [.500, .747]", "1.000", "-.500 [-1.000, .000] (n 2)"]
    assert shorten(WIDE)["step"][0] == "1.5e-03 [1.0e-03, 2.0e-03]", "an exponent needs its digits"


def test_words_are_replaced_and_means_leave_out_their_intervals():
    narrow = Narrow(
        columns={"condition": "gauge", "accuracy": "accuracy", "step": "step"},
        rows={"model": "tinyllama"},
        words={", signs dropped": " unsigned"},
        means=("step",),
    )
    first, second = narrow(WIDE).to_numpy().tolist()
    assert first == ["B_d unsigned", ".623 [.500, .747]", "1.5e-03"]
    assert second == ["B_d", "1.000", ".25"]


def test_table_that_declares_nothing_shows_the_columns_that_fit():
    wide = pd.DataFrame({f"column {i}": ["0.623 [0.500, 0.747]", "–"] for i in range(12)} | {"n": [5, 3]})
    shown = Narrow()(wide)
    assert list(shown.columns)[-1] == "n" and 3 < len(shown.columns) < 12 and width_of(shown) <= WIDTH


@pytest.mark.parametrize(("counts", "sentence"), [([5, 5], "n = 5. "), ([5, 3], "")])
def test_constant_n_is_said_once(counts, sentence):
    summary, said = without_constant_n(pd.DataFrame({"x": ["a", "b"], "n": counts}))
    assert said == sentence and ("n" in summary) == (not sentence)
