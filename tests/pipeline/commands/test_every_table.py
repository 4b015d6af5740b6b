"""Every table at smoke size, and the report of them.

A file of its own, so that a worker of its own can run it.
"""

import re

import pandas as pd
import pytest

from gaugeport.pipeline.config.experiments import experiment, experiment_names
from processes import printed

SMOKE = ["--profile", "smoke", "--set", "tracker=none"]


@pytest.mark.slow
@pytest.mark.timeout(590)
def test_every_table_at_smoke_size(tmp_path):
    text = printed(
        ["tables", *SMOKE], tmp_path
    )  # in the process that writes the report: each is composed once
    assert "FAILED" not in text
    assert len(list((tmp_path / "figures" / "smoke").glob("*.png"))) == len(experiment_names())
    claims = pd.read_csv(tmp_path / "tables" / "smoke" / "claims.csv")
    assert claims["verdict"].str.match(r"direction only|not the direction|by construction|void|not run").all()
    there = claims["table"].isin([experiment(name).id for name in experiment_names()])
    # d11's claims name steps, and b1's a penalty, that this profile does not have
    elsewhere = claims["metric"].str.match(r"d11\.|b1\.l1_floors")
    run = claims["verdict"] != "not run"
    assert (there == run)[~elsewhere].all(), "a claim is declared before its table is there"
    printed(["report", *SMOKE], tmp_path)
    page = (tmp_path / "report" / "smoke" / "index.html").read_text()
    sections = re.findall(r'<section id="([a-d]\d+)">(.*?)</section>', page, re.DOTALL)
    assert len(sections) == len(experiment_names())
    for table, section in sections:
        rows = len(re.findall(r"<tr><td", section))
        assert rows and rows == section.count('class="records"'), f"every row of {table} leads to its records"
