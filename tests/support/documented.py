"""Examples of experiments/README.md: the files they show, and a copy of the tree to put them into."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

from places import ROOT

STEP = r"\d\. [^`\n]*`([\w./]+)`[^\n]*:\n\n +```\w+\n(.*?)```"


def section(title):
    """Return the text of one section of experiments/README.md."""
    text = (ROOT / "experiments" / "README.md").read_text()
    return re.search(rf"## {title}\n(.*?)(?=\n## |\Z)", text, re.DOTALL).group(1)


def steps(title):
    """Return the (path, text) pairs that a section says to write."""
    return [(path, textwrap.dedent(text)) for path, text in re.findall(STEP, section(title), re.DOTALL)]


def copy_tree(folder):
    """Copy what gaugeport runs from to a folder, compiled modules too, so that an example can be added."""
    for part in ("conf", "experiments", "src"):
        leave_out = shutil.ignore_patterns("reference", "benchmarks")
        shutil.copytree(ROOT / part, folder / part, ignore=leave_out)
    return folder


def write_new(folder, title):
    """Write the files of an example, none of which exists yet; return their paths."""
    for path, text in steps(title):
        assert not (folder / path).exists(), path
        (folder / path).write_text(text)
    return [path for path, _ in steps(title)]


def run(folder, *arguments):
    """Run gaugeport as a process on a copy of the tree; return its exit code and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "CI": "1"}
    command = [sys.executable, "-m", "gaugeport", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    return done.returncode, done.stdout + done.stderr
