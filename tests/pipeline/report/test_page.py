"""The report: one page that works from disk, in a real browser."""

import re
import shutil

import pandas as pd
import pytest

from gaugeport.pipeline.report.page import Section, records_behind, write_page
from gaugeport.pipeline.report.tables import Table
from gaugeport.pipeline.report.tidy import COLUMNS
from gaugeport.pipeline.store.records import Record

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


def record(name, seed, **config):
    config = {
        "profile": "mini",
        "seed": seed,
        "model": {"name": "qwen"},
        "training": {"run": {"lr": 0.1}},
        **config,
    }
    return Record(
        name, "recovery", config, [], 12.0, {"torch": "2.13", "commit": "abc"}, 2, {"data.path": "x (1)"}
    )


def table():
    rows = [
        {"model": model, "seed": seed, "group": group, "value": value, "record": f"{model}{group}{seed}"}
        for model in ("qwen", "pythia")
        for group, value in (("B_d", 0.5), ("S_d", 0.25))
        for seed in (0, 1)
    ]
    pivot = pd.DataFrame(
        {
            "model": ["qwen", "qwen", "pythia", "pythia"],
            "group": ["B_d", "S_d", "B_d", "S_d"],
            "accuracy": ["0.900 [0.800, 1.000]", "0.100 [0.000, 0.200]", "–", "0.095 [0.000, 0.200]"],
            "n": [2, 2, 2, 2],
        }
    )
    tidy = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "record"])
    return Table("a3", "trajectory", "a3 trajectory: <b>shares</b> & signs", tidy, pivot, pivot, "a footer")


def claims():
    pivot = pd.DataFrame(
        {"table": ["a3", "b1"], "claim": ["one", "two"], "n": [5, 0], "verdict": ["reproduced", "not run"]}
    )
    return Table("claims", "claims", "claims (mini)", pd.DataFrame(columns=COLUMNS), pivot, pivot, "")


def page(folder):
    figure = folder / "a3.png"
    figure.write_bytes(PIXEL)
    found = table()
    records = [record(i, int(i[-1]), model={"name": "a </script><b>model"}) for i in found.tidy["record"]]
    section = Section(found, figure, "./run.sh tables a3", "experiment:\n  id: a3", records)
    commands = {r.id: f"./run.sh run seed={r.config['seed']}" for r in records}
    return write_page(folder / "report" / "index.html", claims(), [section], commands, folder)


def test_rows_list_the_records_behind_them():
    found = table()
    assert records_behind(found.pivot, found.tidy) == [
        [f"{model}{group}{seed}" for seed in (0, 1)]
        for model, group in (("qwen", "B_d"), ("qwen", "S_d"), ("pythia", "B_d"), ("pythia", "S_d"))
    ]


def test_page_is_self_contained_and_reproducible(tmp_path):
    path = page(tmp_path)
    text = path.read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", text) and "http" not in text
    assert "&lt;b&gt;shares&lt;/b&gt; &amp; signs" in text and "</script><b>" not in text
    before = path.read_bytes()
    assert page(tmp_path).read_bytes() == before


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(params=[(1400, 900), (380, 800)], ids=["wide", "narrow"])
def opened(browser, tmp_path, request):
    width, height = request.param
    tab = browser.new_page(viewport={"width": width, "height": height})
    wrong = []
    tab.on(
        "console",
        lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None,
    )
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda asked: wrong.append(asked.url))
    tab.goto(page(tmp_path).as_uri())
    yield tab
    assert wrong == []
    tab.close()


def column(tab, index):
    return tab.locator(f"#a3 tbody td:nth-child({index})").all_inner_texts()


def test_page_renders_without_errors(opened):
    assert opened.locator("#a3 h2").inner_text() == "a3 trajectory"
    assert opened.locator("#claims tbody tr").count() == 2 and opened.locator("#a3 tbody tr").count() == 4
    assert opened.locator("#claims td.good").all_inner_texts() == ["reproduced"]
    assert opened.evaluate("document.querySelector('#a3 img').complete")
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
        "only tables scroll sideways"
    )
    opened.get_by_role("link", name="a3").first.click()
    assert opened.url.endswith("#a3")


def test_columns_sort_by_number_and_keep_texts_at_one_end(opened):
    header = opened.locator("#a3 th").nth(2)
    header.get_by_role("button").click()
    assert [text[:5] for text in column(opened, 3)] == ["0.095", "0.100", "0.900", "–"]
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").click()
    assert [text[:5] for text in column(opened, 3)] == ["–", "0.900", "0.100", "0.095"]
    opened.locator("#a3 th").nth(0).get_by_role("button").click()
    assert (
        column(opened, 1) == ["pythia", "pythia", "qwen", "qwen"]
        and header.get_attribute("aria-sort") == "none"
    )


def test_rows_are_filtered_by_words(opened):
    opened.get_by_label("filter the rows of a3").fill("qwen S_d")
    shown = [row for row in opened.locator("#a3 tbody tr").all() if row.is_visible()]
    assert len(shown) == 1 and "0.100" in shown[0].inner_text()


def test_row_opens_its_records_with_commands_and_configs(opened):
    opened.locator("#a3 .records").nth(1).click()
    dialog = opened.locator("#record")
    assert dialog.locator("h3").all_inner_texts() == [
        f"recovery, a </script><b>model, seed {s}" for s in (0, 1)
    ]
    assert "./run.sh run seed=1" in dialog.inner_text()
    assert dialog.get_by_role("link").first.get_attribute("href") == "../records/qwenS_d0.json"
    dialog.get_by_text("config").first.click()
    assert "training.run.lr: 0.1" in dialog.inner_text()
    dialog.get_by_role("button", name="close").click()
    assert not dialog.is_visible()
