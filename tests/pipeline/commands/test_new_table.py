"""The README's worked example: a new table is the two files it shows."""

import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from places import ROOT

NEW = r"`((?:conf|experiments)/[\w/]+\.(?:yaml|py))`, [^\n]*:\n\n```\w+\n(.*?)```"


@pytest.fixture
def checkout(tmp_path):
    for folder in ("conf", "experiments", "src"):
        leave_out = shutil.ignore_patterns("reference", "benchmarks", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave_out)
    return tmp_path


def run(checkout, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "CI": "1"}
    command = [
        sys.executable,
        "-m",
        "gaugeport.pipeline.cli",
        *arguments,
        "--profile",
        "smoke",
        "--set",
        "tracker=none",
    ]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=250)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_new_table_is_two_files(checkout):
    new = re.findall(NEW, (ROOT / "README.md").read_text(), re.DOTALL)
    assert [path for path, _ in new] == ["conf/experiment/margins.yaml", "experiments/margins.py"]
    for path, text in new:
        assert not (checkout / path).exists()
        (checkout / path).write_text(text)
    code, text = run(checkout, "tables", "e1", "--processes", "1")
    assert code == 0 and "### e1 margins of coordinates" in text, text
    frame = pd.read_csv(checkout / "outputs" / "tables" / "smoke" / "e1.csv")
    assert set(frame["metric"]) == {"margin_right", "margin_wrong"} and frame["record"].notna().any()
    assert (checkout / "outputs" / "figures" / "smoke" / "e1.png").stat().st_size > 1000
    for suffix in ("md", "tex"):
        assert (checkout / "outputs" / "tables" / "smoke" / f"e1.{suffix}").exists()
    code, text = run(checkout, "status", "e1")
    assert code == 0 and "e1 margins" in text


def test_two_tables_may_not_share_an_id(checkout):
    file = checkout / "conf" / "experiment" / "evidence.yaml"
    file.write_text(file.read_text().replace("id: c2", "id: a3"))
    code, text = run(checkout, "tables", "a3")
    assert code == 2 and "id 'a3'; allowed: a letter and a number that no other table has" in text
