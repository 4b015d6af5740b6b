"""experiments/FINDINGS.md and the README's summary of it say what the kept tables say: sentences made again from the csv."""

import functools
import re

import pandas as pd
import pytest

from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.report.tidy import select

EXPERIMENTS = data_dir("experiments")

LAST = {"metric": "signed_accuracy", "step": 1500, "model": "tinyllama"}
SITE = {**LAST, "site": "block2", "evidence": "site", "lr": 0.015, "spacing": 100, "tokens": 16384}
RATE, WIDTH, TOKENS = "fine-tuning learning rate", "width of the model", "calibration tokens"
WHITENED = "whitened before matching"
B_D, S_D = {"group": "signed_permutation"}, {"group": "permutation"}
STEERED = {"model": "tinyllama", "target": "identical", **S_D}
DRIFTED = {"model": "tinyllama", "target": "finetuned", "setting": "default"}
MERGED = {"model": "tinyllama", "target": "finetuned", "planted": "none", "matched": "none"}
NEOX = {"metric": "explained_variance", "model": "pythia", "site": "block2", "setting": "default"}
FIRING = {"metric": "firing_pearson", "model": "pythia", "site": "block2", "setting": "default"}
BY_TOKENS = {**NEOX, "metric": "explained_variance_by_tokens"}
PREDICTED = {"metric": "predictor_pearson", "predictor": "attribution_patching"}
BAR_C = {"cohort": "A", "alignment": "cayley"}
TOY = {"metric": "explained_variance", "model": "dyck3", "cohort": "A"}
ANCESTOR = {"setting": "checkpoints", "model": "dyck3", "cohort": "B", "step": 3000}
LENGTHS = ("orthogonal", "orthogonal_scaled", "self")
MAPS = ("self", "identity", "permutation", "signed_permutation", "orthogonal", "principal_axes")

LISTS = ("activation", "integrated_gradients", "gradient_activation", "mean_gradient")
AUDITED = {"model": "tinyllama", "target": "finetuned", "matcher": "oracle"}
BACK = {**DRIFTED, "target": "finetuned_back", "matcher": "oracle", "metric": "retention_native"}
FITTED, MAY = {"tokens": 4096, "metric": "heldout_fit"}, {"tokens": 4096, "metric": "heldout_fit_shrunk"}

SENTENCES = [
    (
        "at 3e-2 the endpoint recovers {}, via base {}, the trajectory {}.",
        "d5",
        [{**LAST, RATE: 0.03, "route": r} for r in ("endpoint", "via_base", "trajectory")],
    ),
    (
        "On tinyllama it takes the endpoint's {} to {}, and",
        "a3",
        [{**SITE, **B_D, "matcher": "hungarian_abs", "route": r} for r in ("endpoint", "via_base")],
    ),
    (
        "by {} (activation), {} (integrated gradients), {} (gradient × activation) and {} (mean gradient",
        "a9",
        [{**AUDITED, "metric": "jaccard", "list": name} for name in LISTS],
    ),
    (
        "on the other overlap by {}, {}, {} and {}; two models' on different halves by {}, {}, {} and {}.",
        "a9",
        [
            {**AUDITED, "metric": f"jaccard_{m}_model", "list": name}
            for m in ("same", "other")
            for name in LISTS
        ],
    ),
    ("The direction of that run does {:ci} (sentiment, B to A)", "a5", [BACK]),
    ("the other's {:ci} and", "a5", [{**DRIFTED, "metric": "retention_native", "matcher": "oracle"}]),
    ("and {:ci} of its.", "a6", [BACK]),
    (
        "explains {} of the stream, {} once it may shrink; B_d matched at the endpoint {} and {}, O(d) {} and {}, a ridge "
        "regression {}.",
        "c1",
        [
            {"target": "finetuned", "group": g, **metric}
            for g in ("identity", "signed_permutation", "orthogonal")
            for metric in (FITTED, MAY)
        ]
        + [{"target": "finetuned", "group": "affine", **FITTED}],
    ),
    (
        "both may shrink ({} and {}).",
        "c1",
        [{"target": "independent", "group": g, **MAY} for g in ("orthogonal", "signed_permutation")],
    ),
    (
        "saturated after 50 steps: {}, against {} with signs and {} without",
        "a8",
        [
            {"model": "tinyllama", "setting": "default", "metric": "divergence", "step": 50, "arm": arm}
            for arm in ("neuron_permuted", "signed", "permutation_only")
        ],
    ),
    (
        "no barrier ({}, below both",
        "a7",
        [{**MERGED, "setting": "default", "matcher": "oracle", "metric": "loss_average"}],
    ),
    (
        "again ({} with no gauge, {} under the true one)",
        "a7",
        [
            {**MERGED, "setting": "folded", "matcher": m, "metric": "loss_task_arithmetic", "scaling": 1.0}
            for m in ("none", "oracle")
        ],
    ),
    (
        "of what B's own direction does that is {} in sentiment (a5)",
        "a5",
        [{**DRIFTED, "metric": "retention_native", "matcher": "oracle"}],
    ),
    (
        "and {:ci} (refusal, A to B)",
        "a6",
        [{**DRIFTED, "metric": "retention_native", "matcher": "oracle"}],
    ),
    (
        "and {:ci} in refusal (a6)",
        "a6",
        [{**DRIFTED, "metric": "retention_native", "matcher": "oracle"}],
    ),
    (
        "an SAE of A leaves {} of B's variance unexplained where it leaves {} of A's, and recovers {} of the loss",
        "a4",
        [
            {**DRIFTED, "architecture": "topk", "metric": m, "matcher": "oracle"}
            for m in ("nmse", "nmse_native", "ce_recovered")
        ],
    ),
    (
        "64 wide keeps {} at the endpoint and every coordinate by the other routes, 128 wide the endpoint keeps {}.",
        "d9",
        [{**LAST, WIDTH: w, "route": "endpoint"} for w in (64, 128)],
    ),
    (
        "whitening before matching {} for {}, and via base {} for {} (three",
        "d7",
        [{**LAST, WHITENED: w, "route": r} for r in ("endpoint", "via_base") for w in (True, False)],
    ),
    (
        "256 calibration tokens give {} at the endpoint and {} along the trajectory",
        "d2",
        [{**LAST, TOKENS: 256, "route": r} for r in ("endpoint", "trajectory")],
    ),
    (
        "gets {} (raw) to {} (signs dropped) where B_d gets {}.",
        "a3",
        [
            {**SITE, **group, "matcher": f"hungarian_{m}", "route": "endpoint"}
            for group, m in ((S_D, "raw"), (S_D, "abs"), (B_D, "abs"))
        ],
    ),
    (
        "B_d, {} (½) under raw S_d, {} (0) with the signs dropped",
        "a5",
        [{**STEERED, "metric": "retention", "matcher": f"hungarian_{m}"} for m in ("raw", "abs")],
    ),
    (
        "with the signs dropped, which reverse it in {} (½) of the plants",
        "a5",
        [{**STEERED, "metric": "reversal_probability", "matcher": "hungarian_abs"}],
    ),
    (
        "with the signs dropped reverses in {} of the plants",
        "a6",
        [{**STEERED, "metric": "reversal_probability", "matcher": "hungarian_abs"}],
    ),
    (
        "a random direction does in {:ci},",
        "a6",
        [{**STEERED, "metric": "reversal_probability_random", "matcher": "hungarian_abs"}],
    ),
    (
        "it is {:ci} (½)",
        "a6",
        [{**STEERED, "metric": "odd_reversal_probability", "matcher": "hungarian_abs"}],
    ),
    (
        "dropping the signs leaves {} of it",
        "a6",
        [{**STEERED, "metric": "ablation_retention", "matcher": "hungarian_abs"}],
    ),
    ("| GPT-NeoX, TopK | {} | {} | {} | {} | {} | {} |", "b5", [{**NEOX, "group": g} for g in MAPS]),
    (
        "| GPT-NeoX, ReLU and L1 | {} | {} | {} | {} | {} | {} |",
        "b5",
        [{**NEOX, "setting": "relu_l1", "group": g} for g in MAPS],
    ),
    (
        "mid-stack of the GPT-NeoX: {} raw, {} through B_d, {} rotated",
        "b7",
        [{**FIRING, "group": g} for g in ("identity", "signed_permutation", "orthogonal")],
    ),
    (
        "From 256 tokens on it is ahead ({} and {}); at 16,384 it is at {} and {}.",
        "b5",
        [
            {**BY_TOKENS, "tokens": n, "group": g}
            for n in (256, 16384)
            for g in ("orthogonal", "signed_permutation")
        ],
    ),
    (
        "a stream keeps {} of its variance with no SAE at all; that is the most that the affine column's {} could",
        "b5",
        [{**NEOX, "metric": m, "group": "affine"} for m in ("round_trip", "explained_variance")],
    ),
    (
        "a ReLU-and-L1 SAE at resid_mid_1 goes from {} to {} of its {} at home, and behind the last block from {} to {} of {}:",
        "b5",
        [
            {**TOY, "setting": "relu_l1", "site": s, "group": g}
            for s in ("resid_mid_1", "resid_post_1")
            for g in LENGTHS
        ],
    ),
    (
        "TopK hardly asks for it ({} and {}), and",
        "b5",
        [{**TOY, "setting": "default", "site": "resid_mid_1", "group": g} for g in LENGTHS[:2]],
    ),
    ("equally long ({} and {}).", "b5", [{**NEOX, "setting": "relu_l1", "group": g} for g in LENGTHS[:2]]),
    (
        "the identity ({:ci} of the √128 that random ones have), and {} on the support",
        "b9",
        [
            {**ANCESTOR, "site": "resid_pre_0", "metric": m}
            for m in ("distance_from_identity", "supported_distance")
        ],
    ),
    (
        "EV falls raw, but not catastrophically: GPT-NeoX {} to {}, rotated {}, means alone {}.",
        "b9",
        [
            {**NEOX, "setting": "checkpoints", "group": g}
            for g in ("self", "identity", "orthogonal", "translation")
        ],
    ),
    (
        "From 2 % on, the paper's share: {} at home, {} raw, {} rotated, {} means alone; the rotation is {} of √(2d)",
        "b9",
        [{**NEOX, "setting": "early", "group": g} for g in ("self", "identity", "orthogonal", "translation")]
        + [{**NEOX, "setting": "early", "step": 1500, "metric": "distance_from_identity"}],
    ),
    (
        "does not reproduce: {:ci} on the toy's cohort A, {:ci} on its cohort B, {:ci}",
        "b3",
        [{**PREDICTED, "cohort": c} for c in "AB"] + [{**PREDICTED, "model": "pythia", "ablated": "update"}],
    ),
    ("seed 0 against those of an aligned seed: r = {:ci}", "b2", [{**BAR_C, "metric": "bar_c_pearson"}]),
    ("any order it is {} all the same", "b2", [{**BAR_C, "metric": "bar_c_any_order"}]),
    (
        "Over heads alone {:ci}, in any order {}; of cumulative ablation, which is no identity with C, {:ci}.",
        "b2",
        [{**BAR_C, "metric": m} for m in ("bar_c_heads_pearson", "bar_c_heads_any_order", "bar_pr_pearson")],
    ),
    (
        "Their OV norms are {:ci} of those of the used heads beside them, QK {:ci}, and",
        "b4",
        [{"cohort": "A", "component": "model", "metric": f"unused_{x}_over_used"} for x in ("ov", "qk")],
    ),
    (
        "Path patching keeps {} of 8 heads and ACDC {} (the paper's 6).",
        "b4",
        [
            {"metric": "heads_kept", "cohort": "A", "component": "model", "lens": x}
            for x in ("path_patching", "acdc")
        ],
    ),
    (
        "an SAE explains {} of another seed's variance as it is, {} through the best signed permutation, {} through the best rotation",
        "b5",
        [{**NEOX, "group": g} for g in ("identity", "signed_permutation", "orthogonal")],
    ),
    ("side by side, no token paired, give {} (b5;", "b5", [{**NEOX, "group": "principal_axes"}]),
    (
        "(b7: {} raw, {} B_d, {} rotated)",
        "b7",
        [{**FIRING, "group": g} for g in ("identity", "signed_permutation", "orthogonal")],
    ),
]


@pytest.fixture(scope="module")
def said():
    files = (EXPERIMENTS / "FINDINGS.md", EXPERIMENTS.parent / "README.md")
    return re.sub(r"\s+", " ", " ".join(f.read_text() for f in files))


@functools.cache
def kept(table):
    return pd.read_csv(EXPERIMENTS / "reference" / "mini" / f"{table}.csv", low_memory=False)


def two_digits(value):
    return "1" if round(value, 2) == 1 else re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}").replace("-", "−")


class Figure:
    """A row of a table as sentences have it: ``{}`` its value, ``{:ci}`` with its interval."""

    def __init__(self, row):
        self.row = row

    def __format__(self, spec):
        value, low, high = (two_digits(self.row[c]) for c in ("value", "ci_low", "ci_high"))
        return f"{value} [{low}, {high}]" if spec == "ci" else value


@pytest.mark.parametrize(("sentence", "table", "rows"), SENTENCES)
def test_a_sentence_has_the_figures_of_its_table(said, sentence, table, rows):
    found = [select(kept(table), where) for where in rows]
    assert [len(f) for f in found] == [1] * len(rows)
    assert sentence.format(*(Figure(f.iloc[0]) for f in found)) in said
