"""Every table at smoke size. A file of its own, so that a worker of its own can run it."""

import pandas as pd
import pytest
from test_tables import finish

from gaugeport.sweeps import experiment_names


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_every_table_at_smoke_size(tmp_path):
    text = finish(["tables", "--profile", "smoke", "--set", "tracker=none"], tmp_path, seconds=560)
    assert "FAILED" not in text
    assert len(list((tmp_path / "figures" / "smoke").glob("*.png"))) == len(experiment_names())
    claims = pd.read_csv(tmp_path / "tables" / "smoke" / "claims.csv")
    assert claims["verdict"].str.match(r"direction only|no verdict").all()
