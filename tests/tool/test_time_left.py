"""Commands that may take minutes say how far they are, those that read a text how much of all is left."""

from contextlib import contextmanager

import pytest

from gaugeport.tool import align, audit, certify, draft, merge
from tiny_folders import model, noisy, planted_pair, write_model, write_text


@pytest.fixture
def counted(monkeypatch):
    """Return [announced, made]: how many passes were announced, and how many were made."""
    counts = [0, 0]

    @contextmanager
    def bar(calls=0):
        counts[0] = calls

        def called(done, total, what):
            counts[1] += 1

        yield called

    for module in (align, audit):
        monkeypatch.setattr(module, "progress_bar", bar)
    return counts


@pytest.mark.parametrize("more", [{}, {"evidence": "both"}, {"base": "a"}, {"along": ("run", "run")}])
def test_align_makes_the_passes_that_it_announces(tmp_path, counted, more):
    planted_pair(tmp_path)
    write_model(noisy(model(), 0.01), tmp_path / "run" / "checkpoint-1")
    options = {k: v if k == "evidence" else str(tmp_path / v) for k, v in more.items() if k != "along"}
    if "along" in more:
        options["along"] = (tmp_path / "run", tmp_path / "run")
    out = tmp_path / "g.safetensors"
    names = (str(tmp_path / "a"), str(tmp_path / "b"))
    align.align_models(
        align.Request(*names, out, out.with_suffix(".png"), text=tmp_path / "text.txt", **options)
    )
    assert counted[0] == counted[1] > 4


def test_audit_makes_the_passes_that_it_announces(tmp_path, counted):
    write_model(model(), tmp_path / "a")
    write_text(tmp_path / "text.txt")
    audit.audit(audit.Request(str(tmp_path / "a"), text=tmp_path / "text.txt", draws=2))
    assert counted[0] == counted[1] > 4


@pytest.fixture
def seen(monkeypatch):
    """Return the steps that are reported."""
    steps = []

    @contextmanager
    def bar():
        yield lambda *step: steps.append(step)

    for module in (certify, draft, merge):
        monkeypatch.setattr(module, "progress_bar", bar)
    return steps


def test_certify_and_draft_count_what_they_check(tmp_path, seen):
    write_model(model(), tmp_path / "a")
    certify.certify_model(str(tmp_path / "a"))
    draft.draft_chart(str(tmp_path / "a"))
    assert seen == [(k, 7, "certifying") for k in range(1, 8)] + [(k, 5, "drafting") for k in range(1, 6)]


def test_merge_counts_blocks_matrices_and_parameters(tmp_path, seen):
    planted_pair(tmp_path)
    merge.merge(str(tmp_path / "a"), str(tmp_path / "b"), 0.5, tmp_path / "out")
    ends = {what: (done, total) for done, total, what in seen}
    parameters, matrices = 2 * 9 + 3, 2 * 7 + 2
    assert ends == {
        "reading weights": (matrices, matrices),
        "matching neurons": (2, 2),
        "matching heads": (2, 2),
        "weights": (matrices, matrices),
        "merging": (parameters, parameters),
    }
