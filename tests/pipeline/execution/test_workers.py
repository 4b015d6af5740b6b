"""Workers end with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

from gaugeport.pipeline.execution import launchers
from places import ROOT

PARENT = """
import sys, time
from joblib import Parallel, delayed
from gaugeport.pipeline.execution.workers import end_with_parent

def work(seconds):
    import os
    end_with_parent()
    with open(f"{sys.argv[1]}/{os.getpid()}", "w"):
        time.sleep(seconds)

Parallel(n_jobs=2)(delayed(work)(60) for _ in range(2))
"""


def runs(pid):
    """Whether a process still computes; one that has ended may wait to be collected."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds()


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env=environment)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    workers = [int(p.name) for p in tmp_path.iterdir()]
    assert all(map(runs, workers)) and parent.pid not in workers
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not any(map(runs, workers)), seconds=10)


def test_every_step_is_done_by_a_worker_that_ends_with_its_parent(monkeypatch):
    called = []
    monkeypatch.setattr(launchers, "end_with_parent", lambda: called.append(1))
    assert launchers.attempt(SimpleNamespace(outputs=None), None) is not None  # no job: it fails
    assert called == [1]
