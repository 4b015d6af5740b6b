"""The wheel carries conf/ and experiments/, and works without the checkout."""

import os
import subprocess
import sys
import zipfile

import pytest

from places import ROOT


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
    ]
    subprocess.run(build, check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_data_travels_in_the_wheel(unpacked):
    package = unpacked / "gaugeport"
    for data in (
        "conf/config.yaml",
        "conf/experiment/trajectory.yaml",
        "experiments/trajectory.py",
        "conf/hydra/launcher/ray_cluster.yaml",
        "experiments/claims.yaml",
    ):
        assert (package / data).read_bytes() == (ROOT / data).read_bytes()
    templates = "pipeline/report/templates/page.html"
    assert (package / templates).read_bytes() == (ROOT / "src" / "gaugeport" / templates).read_bytes()


def test_the_wheel_composes_and_lists_its_tables(unpacked, tmp_path):
    script = (
        "import gaugeport, gaugeport.pipeline.config.sweeps as c, gaugeport.pipeline.paths as p;"
        f"assert p.PACKAGE.is_relative_to({str(unpacked)!r}), p.PACKAGE;"
        "assert p.data_dir('conf').is_relative_to(p.PACKAGE);"
        "assert p.experiment_module('trajectory').TITLE;"
        "print(len(c.jobs_of(c.experiment('a3'), 'smoke', headline=True)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "7"
