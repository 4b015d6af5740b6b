"""Follow "Add a matcher" in experiments/README.md on a copy of the tree: two edits, and a job can use the matcher."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

from places import ROOT

SECTION = r"## Add a matcher\n(.*?)(?=\n## |\Z)"
STEP = r"\d\. [^`\n]*`([\w./]+)`[^\n]*:\n\n +```\w+\n(.*?)```"


def test_readme_example_adds_a_matcher_that_recovers_the_planted_gauge(tmp_path):
    for folder in ("conf", "src"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")

    # 1) read the example from the documentation, and make its two edits
    section = re.search(SECTION, (ROOT / "experiments" / "README.md").read_text(), re.DOTALL).group(1)
    steps = re.findall(STEP, section, re.DOTALL)
    assert [path for path, _ in steps] == [
        "src/gaugeport/alignment/matchers.py",
        "conf/matcher/greedy.yaml",
    ]
    for path, text in steps:
        with (tmp_path / path).open("a") as file:
            file.write("\n\n" + textwrap.dedent(text))

    # 2) run the command that the documentation gives
    (command,) = re.findall(r"^gaugeport (run .*)$", section, re.MULTILINE)
    assert "matcher=greedy" in command
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    python = [sys.executable, "-m", "gaugeport.pipeline.cli", *command.split()]
    done = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr

    # 3) the job recovers the planted gauge
    (path,) = (tmp_path / "outputs" / "records").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["config"]["matcher"] == "greedy"
    accuracy = {
        row["site"] or row["evidence"]: row["value"]
        for row in record["rows"]
        if row["metric"] == "signed_accuracy" and row["step"] == 5  # the first checkpoint has drifted least
    }
    assert [accuracy[where] for where in ("embed", "pooled", "both")] == [1.0, 1.0, 1.0]
