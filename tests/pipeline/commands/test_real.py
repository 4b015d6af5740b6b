"""Run the trajectory experiment from a real pretrained model; skipped where the real artefacts are absent."""

import math

import pandas as pd
import pytest

from places import REAL
from processes import printed

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"no real artefacts at {REAL}"),
]

STORIES = [
    "profile=smoke",
    "tracker=none",
    f"model.path={REAL / 'models' / 'stories260K'}",
    "data=text",
    f"data.path={REAL / 'text' / 'tinystories.jsonl'}",
    "data.documents=300",
    "training.run.lr=1e-3",
]


def test_trajectory_recovery_on_stories260k(tmp_path):
    text = printed(["run", "-m", *STORIES, "route=endpoint,via_base,trajectory"], tmp_path)
    assert text.count("### recovery") == 1
    assert all(route in text for route in ("endpoint", "via_base", "trajectory"))
    built = (tmp_path / "store" / "built.log").read_text().split()
    assert "base" not in built, "the user's model is the base"
    records = sorted((tmp_path / "records").glob("*.json"))
    rows = pd.concat([pd.DataFrame(pd.read_json(p, typ="series")["rows"]) for p in records])
    signed = rows[(rows["metric"] == "signed_accuracy") & (rows["evidence"] == "pooled")]
    # twenty small steps from a trained model: coordinates stay where they are, and every route finds them
    assert (signed["value"] >= 0.95).all()
    # 512 tokens: an untrained model would lose log 512 nats a token
    assert rows[rows["metric"] == "loss_base"]["value"].iloc[0] < math.log(512) / 2
