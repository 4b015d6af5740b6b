"""The wheel carries conf/ and experiments/, and works without the checkout."""

import importlib
import os
import subprocess
import sys
import zipfile

import pytest

import gaugeport
from places import ROOT

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "hydra", "omegaconf", "wandb", "sae_lens", "scipy")


@pytest.mark.parametrize("command", [None, "", "run", "tables", "status", "report", "certify"])
def test_importing_and_asking_for_help_loads_nothing_heavy(command):
    script = "import sys, gaugeport\n"
    if command is not None:
        script += (
            "from gaugeport.pipeline.cli import main\n"
            f"sys.argv = ['gaugeport', *{command.split()}, '--help']\n"
            "try: main()\nexcept SystemExit as end: assert not end.code\n"
        )
    script += f"print('loaded:', *(m for m in {HEAVY} if m in sys.modules))"
    text = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert text.splitlines()[-1].strip() == "loaded:"
    if command is not None:
        assert "Usage: " in text


def test_public_names_resolve_even_after_their_modules_are_imported():
    module = importlib.import_module("gaugeport.alignment.align")
    assert gaugeport.align is module.align
    for name in gaugeport.__all__:
        assert callable(getattr(gaugeport, name)), name
    assert gaugeport.groups.__name__ == "gaugeport.groups" and set(gaugeport.__all__) <= set(dir(gaugeport))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = gaugeport.no_such_name


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
