"""Run ``gaugeport`` in its own process or in this one, and read what it leaves in a folder of outputs."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

from gaugeport import cli


def gaugeport(arguments, outputs, ci=True, **options):
    environment = {**os.environ, "GAUGEPORT_OUTPUTS": str(outputs)}
    environment.pop("CI", None)
    if ci:
        environment["CI"] = "1"
    command = [sys.executable, "-m", "gaugeport.cli", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def finish(arguments, outputs, code=0, seconds=280, ci=True, **options):
    process = gaugeport(arguments, outputs, ci, **options)
    text, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, text
    return text


def answered(arguments, outputs, ci=True):
    """Run a command in this process, which saves seconds of imports; return exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    environment = {"GAUGEPORT_OUTPUTS": str(outputs), "CI": "1"}
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", ["gaugeport", *arguments]),
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("always")
        if not ci:
            del os.environ["CI"]
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    err.writelines(f"{w.message}\n" for w in warned)
    return code, out.getvalue(), err.getvalue()


def printed(arguments, outputs, code=0, ci=True):
    """Return all that a command prints, run in this process."""
    ended, out, err = answered(arguments, outputs, ci)
    assert ended == code, out + err
    return out + err


def kill_when(arguments, outputs, enough, seconds=200):
    """Start a command in its own session, and kill all of it with SIGKILL as soon as ``enough()`` is true."""
    process = gaugeport(arguments, outputs, start_new_session=True)
    deadline = time.monotonic() + seconds
    while not enough() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it must still be running when it is killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def built(outputs):
    """Return the lines of the store's log: one each time that a stage was built."""
    log = Path(outputs) / "store" / "built.log"
    return log.read_text().splitlines() if log.exists() else []


def files(outputs, pattern):
    """Return path below ``outputs`` -> bytes."""
    paths = sorted(p for p in Path(outputs).glob(pattern) if p.is_file())
    return {str(p.relative_to(outputs)): p.read_bytes() for p in paths}
