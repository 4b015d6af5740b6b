"""Follow "Add a matcher" in experiments/README.md: after its two edits, a job can use the new matcher."""

import json
import re

import documented


def test_readme_example_adds_a_matcher_that_recovers_the_planted_gauge(tmp_path):
    checkout = documented.copy_tree(tmp_path)
    # 1) make the two edits of the example
    steps = documented.steps("Add a matcher")
    assert [path for path, _ in steps] == ["src/gaugeport/alignment/matchers.py", "conf/matcher/greedy.yaml"]
    for path, text in steps:
        with (checkout / path).open("a") as file:
            file.write("\n\n" + text)

    # 2) run the command that the documentation gives
    (command,) = re.findall(r"^gaugeport (run .*)$", documented.section("Add a matcher"), re.MULTILINE)
    assert "matcher=greedy" in command
    code, text = documented.run(checkout, *command.split())
    assert code == 0, text

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
