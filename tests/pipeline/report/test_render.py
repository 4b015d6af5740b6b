"""Tables as files: the same rows give the same bytes; special characters survive in Markdown and LaTeX."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from gaugeport.pipeline.report import figures
from gaugeport.pipeline.report.render import (
    PACKAGES,
    cell,
    interval,
    latex,
    markdown,
    with_intervals,
    write_table,
)
from gaugeport.pipeline.report.summary import summary
from gaugeport.pipeline.store.records import Record
from gaugeport.utils.files import write_text

PIVOT = pd.DataFrame({"claim": ["|C| beats 50 % of B_d", "x ≥ y"], "n": [5.0, 1.0]})


def test_markdown_escapes_bars_and_prints_counts_as_integers():
    text = markdown("a title", PIVOT, "a footer")
    assert r"\|C\| beats" in text and "| 5 " in text and "5.0" not in text
    assert text.startswith("### a title\n\n| claim") and text.endswith("a footer\n")


@pytest.mark.parametrize("title", ["b2 bars across seeds. B: KL", "b2 bars across seeds: B: KL"])
def test_markdown_heading_ends_at_first_stop(title):
    assert markdown(title, PIVOT).startswith("### b2 bars across seeds\n\nB: KL.\n\n| claim")


def test_stop_within_a_word_does_not_end_the_heading():
    assert markdown("at 1.5: a:b", PIVOT).startswith("### at 1.5\n\nA:b.\n\n| claim")


def test_latex_escapes_special_characters():
    text = latex("100 % of S_d", PIVOT, "a & b")
    assert r"$|$C$|$ beats 50 \% of B\_d" in text and r"100 \% of S\_d" in text and r"a \& b" in text
    assert r"x $\ge$ y & 1 \\" in text and r"\toprule" in text


def test_latex_splits_long_tables_turns_wide_ones_and_captions_constant_columns():
    long = pd.DataFrame({"seed": range(100), "site": "block2", "value": "0.5 [0.4, 0.6]"})
    text = latex("a3 shares", long, "")
    assert text.count(r"\begin{tabular}") == 3 and text.count("a3, continued") == 2
    assert "a3 shares. site: block2" in text and "block2 &" not in text and "0.5 [0.4, 0.6]" in text
    assert r"\begin{landscape}" not in text
    wide = pd.DataFrame([[f"{i}{j}" for j in range(12)] for i in range(2)])
    assert latex("t", wide, "").count(r"\begin{landscape}") == 1


def test_latex_contains_only_letters_that_pdflatex_sets():
    """What the compiling test would find, where there is no pdflatex to find it."""
    expected = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
    expected |= {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": "/",
        "é": "é",
        "λ": r"$\lambda$",
    }
    expected |= {"α": r"$\alpha$", "Ω": "(greek capital letter omega)", "中": "(cjk unified ideograph-4e2d)"}
    for letter, said in expected.items():
        assert f"x{said}x" in latex("t", pd.DataFrame({"c": [f"x{letter}x", "y"]})), letter


def lacking_in_latex():
    """What a document with our tables needs and this machine has not."""
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        return ["pdflatex"]
    found = (
        subprocess.run(["kpsewhich", f"{p}.sty"], capture_output=True).returncode for p in PACKAGES.split(",")
    )
    return [p for p, code in zip(PACKAGES.split(","), found, strict=True) if code]


def test_latex_compiles(tmp_path):
    if lacking := lacking_in_latex():
        pytest.skip(f"not on this machine: {', '.join(lacking)}")
    odd = "λ α² ‖Q−Q*‖/√(2d) ≥ ½ · {a} [b] 5 % of B_d & S_d # $ ~ ^ \\ é Ω 中 x→y … <i> “quoted”"
    wide = pd.DataFrame({f"c_{i}": [odd[:30], "0.5 [0.4, 0.6]"] for i in range(12)})
    long = pd.DataFrame({"word": [f"w{i}" for i in range(100)], "prose": "many words " * 8, odd: "1 %"})
    for name, table in (("wide", wide), ("long", long)):
        (tmp_path / f"{name}.tex").write_text(latex(f"{name} {odd}", table, odd))
    body = "\\input{wide}\n\\input{long}"
    document = (
        f"\\documentclass{{article}}\\usepackage{{{PACKAGES}}}\\begin{{document}}{body}\\end{{document}}"
    )
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_intervals():
    assert interval(0.9, 0.85, 0.95) == "0.900 [0.850, 0.950]"
    assert interval(0.9, float("nan"), float("nan")) == "0.900"
    assert interval(float("nan"), float("nan"), float("nan")) == "–"
    assert list(with_intervals(pd.DataFrame({"value": [1.0], "ci_low": [0.5], "ci_high": [1.5]}), 1)) == [
        "1.0 [0.5, 1.5]"
    ]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        write_table(tmp_path / folder, "t", "title", PIVOT, PIVOT, "")
    for suffix in ("csv", "md", "tex"):
        assert (tmp_path / "one" / f"t.{suffix}").read_bytes() == (
            tmp_path / "two" / f"t.{suffix}"
        ).read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def test_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    def half(file, whole):
        file.write_bytes(whole[: len(whole) // 2])
        raise OSError("killed")

    text, picture = tmp_path / "t.md", tmp_path / "t.png"
    write_text(text, "as it was")
    figure, (axis,) = figures.panels(1)
    axis.plot([0, 1])
    figures.save(figure, picture)
    before = picture.read_bytes()
    monkeypatch.setattr(Path, "write_text", lambda file, new: half(file, new.encode()))
    monkeypatch.setattr(figures.Figure, "savefig", lambda self, file, **kwargs: half(file, before[::-1]))
    for write in (
        lambda: write_text(text, "as it will be"),
        lambda: figures.save(figures.panels(1)[0], picture),
    ):
        with pytest.raises(OSError, match="killed"):
            write()
    assert text.read_text() == "as it was" and picture.read_bytes() == before


def test_cell_names_its_seeds_where_they_differ_from_its_line():
    rows = pd.DataFrame({"value": [0.5], "ci_low": [0.25], "ci_high": [0.75], "n": [2.0]})
    assert cell(rows) == cell(rows, n=2) == "0.500 [0.250, 0.750]"
    assert cell(rows, n=5) == "0.500 [0.250, 0.750] (n 2)" and cell(rows.iloc[:0], n=5) == "–"


def test_job_summary_shows_shared_columns_once_and_last_step_only():
    config = {
        "profile": "mini",
        "model": {"name": "qwen"},
        "seed": 2,
        "setting": "default",
        "gauge": "identity",
    }
    rows = [
        {"step": step, "site": site, "metric": "m", "value": step / 3}
        for step in (1, 2)
        for site in ("embed", "block0")
    ]
    record = Record(
        "abc",
        "t",
        {**config, "matcher": "none", "route": "endpoint"},
        [*rows, {"metric": "x", "value": 7.0}],
        3.2,
        {},
        2,
        {"model.path": "/m (ab)"},
    )
    title, shared, table = summary(record).strip().split("\n\n")
    head, _, *body = table.splitlines()
    said = "Profile mini, model qwen, seed 2, setting default, group identity, matcher none, route endpoint"
    assert (title, shared.replace("\n", " ")) == ("### t abc (3 s)", f"{said}, model.path /m (ab).")
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in (head, *body)]
    assert cells[0] == ["site", "step", "metric", "value"]
    assert cells[1:] == [["–", "–", "x", "7"], ["block0", "2", "m", "0.6667"], ["embed", "2", "m", "0.6667"]]


def test_figure_is_drawn_again_only_when_its_source_changed(tmp_path):
    path = tmp_path / "t.png"
    assert figures.source_of(path) is None
    figures.save(figures.panels(1)[0], path, "first")
    assert figures.source_of(path) == "first"
    path.write_bytes(b"damaged")
    assert figures.source_of(path) is None
