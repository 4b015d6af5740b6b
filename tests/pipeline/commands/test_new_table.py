"""Follow "Add a table" and "Add a task" in experiments/README.md on a copy of the tree."""

import pandas as pd
import pytest

import documented

SMOKE = ("--profile", "smoke", "--set", "tracker=none")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy with both examples, the files that they wrote, and what making their tables printed."""
    checkout = documented.copy_tree(tmp_path_factory.mktemp("checkout"))
    written = [documented.write_new(checkout, title) for title in ("Add a table", "Add a task")]
    code, text = documented.run(checkout, "tables", "e1", "e2", "--processes", "1", *SMOKE)
    assert code == 0, text
    return checkout, *written, text


@pytest.mark.slow
def test_new_table_is_two_files(made):
    checkout, written, _, text = made
    assert written == ["conf/experiment/margins.yaml", "experiments/margins.py"]
    assert "e1 margins of coordinates" in text, text
    frame = pd.read_csv(checkout / "outputs" / "tables" / "smoke" / "e1.csv")
    assert set(frame["metric"]) == {"margin_right", "margin_wrong"} and frame["record"].notna().any()
    assert (checkout / "outputs" / "figures" / "smoke" / "e1.png").stat().st_size > 1000
    for suffix in ("md", "tex"):
        assert (checkout / "outputs" / "tables" / "smoke" / f"e1.{suffix}").exists()
    code, text = documented.run(checkout, "status", "e1", *SMOKE)
    assert code == 0 and "e1 margins" in text


@pytest.mark.slow
def test_new_task_is_its_settings_its_record_and_its_table(made):
    checkout, _, written, text = made
    assert written == [
        "conf/task/stream_length.yaml",
        "src/gaugeport/pipeline/tasks/stream_length.py",
        "conf/experiment/stream_length.yaml",
        "experiments/stream_length.py",
    ]
    assert "e2 length of the residual stream" in text, text
    frame = pd.read_csv(checkout / "outputs" / "tables" / "smoke" / "e2.csv")
    means = frame[frame["seed"].isna()].set_index("site")["value"]
    assert {"embed", "block0"} <= set(means.index) and (means > 0).all()
    code, text = documented.run(checkout, "run", "task=stream_length", "task.tokens=0", "profile=smoke")
    assert code != 0 and "task.tokens" in text


def test_two_tables_may_not_share_an_id(tmp_path):
    checkout = documented.copy_tree(tmp_path)
    file = checkout / "conf" / "experiment" / "evidence.yaml"
    file.write_text(file.read_text().replace("id: c2", "id: a3"))
    code, text = documented.run(checkout, "tables", "a3", *SMOKE)
    assert code == 2 and "id 'a3'; allowed: a letter and a number that no other table has" in text
