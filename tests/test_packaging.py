"""What is installed: the wheel's data, the library without the pipeline's dependencies, and quick imports."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
import torch
from packaging.requirements import Requirement

import gaugeport
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from places import ROOT
from tiny_folders import planted_pair

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "hydra", "omegaconf", "wandb", "sae_lens", "scipy")


@pytest.mark.parametrize("command", [None, "", "run", "tables", "status", "report", "certify"])
def test_importing_and_asking_for_help_loads_nothing_heavy(command):
    script = "import sys, gaugeport\n"
    if command is not None:
        script += (
            "from gaugeport.cli import main\n"
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
    for data in (
        "pipeline/report/templates/page.html",
        "pipeline/data/prompts/reviews.jsonl",
        "pipeline/data/prompts/requests.jsonl",
    ):
        assert (package / data).read_bytes() == (ROOT / "src" / "gaugeport" / data).read_bytes()


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


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required_distributions(requirements):
    """Return the names of the distributions that pip installs for some requirements."""
    required, left = set(), [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in required:
            continue
        required.add(name)
        try:
            own = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue  # not needed on this platform, or part of another distribution
        left += [r for r in own if r.marker is None or r.marker.evaluate({"extra": ""})]
    return required


@pytest.fixture(scope="module")
def without_extras(unpacked, tmp_path_factory):
    """A folder of links to the wheel and to what its dependencies without extras bring, and nothing else."""
    site = tmp_path_factory.mktemp("without-extras")
    (site / "gaugeport").symlink_to(unpacked / "gaugeport")
    for name in required_distributions(PROJECT["dependencies"]):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    return site


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders that the README's lines load: a base model, and two runs from it."""
    folder = tmp_path_factory.mktemp("runs")
    model = tiny_model("llama", torch.Generator().manual_seed(0))
    for name in ("base", "runs/a/checkpoint-1500", "runs/b/checkpoint-1500"):
        model.save_pretrained(folder / name)
    return folder


LIBRARY = """
import sys
sys.path[:0] = [SITE]
import torch
generator = torch.Generator().manual_seed(0)
batches = [{"input_ids": torch.randint(3, 64, (4, 16), generator=generator)} for _ in range(4)]
held_out = [{"input_ids": torch.randint(3, 64, (4, 16), generator=generator)} for _ in range(2)]
README_LINES
for name in gp.__all__:
    getattr(gp, name)
g = gp.align(a, b, evidence="weights").gauge
vector = torch.randn(32, generator=generator)
assert torch.equal(gp.transport_direction(vector, g), g.act(vector))
gp.transport_magnitude(vector.abs(), g)
assert gp.transport_indices([3, 17], g)
gp.merge([b, a], [None, g])
gp.fold_gains(a)
unwanted = [m for m in EXTRAS if m in sys.modules or __import__("importlib.util").util.find_spec(m)]
assert not unwanted, unwanted
"""


def readme_lines():
    """Return the README's first lines of library code."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if block.startswith("import gaugeport as gp"))


def isolated(site, *arguments, cwd):
    """Run Python with the standard library and one folder of packages alone."""
    script = (
        f"import runpy, sys; sys.path[:0] = [{str(site)!r}]; sys.argv = {['gaugeport', *arguments]!r}; "
        "runpy.run_module('gaugeport', run_name='__main__')"
    )
    command = [sys.executable, "-I", "-S", "-c", script]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=250)
    return done.returncode, done.stdout + done.stderr


def test_the_library_runs_without_the_pipeline_s_dependencies(without_extras, runs):
    extras = (
        "accelerate",
        "datasets",
        "hydra",
        "joblib",
        "matplotlib",
        "omegaconf",
        "pandas",
        "sae_lens",
        "wandb",
    )
    script = LIBRARY.replace("SITE", repr(str(without_extras))).replace("EXTRAS", repr(extras))
    script = script.replace("README_LINES", readme_lines())
    command = [sys.executable, "-I", "-S", "-c", script]
    done = subprocess.run(command, cwd=runs, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def test_without_the_pipeline_extra_its_commands_say_what_to_install(without_extras, runs):
    code, text = isolated(without_extras, "certify", "base", cwd=runs)
    assert code == 0 and "group    signed_permutation" in text, text
    for command in (["tables", "a1"], ["run", "seed=1"]):
        code, text = isolated(without_extras, *command, cwd=runs)
        assert code == 2 and "pip install 'gaugeport[pipeline]'" in text and "Traceback" not in text, text
    code, text = isolated(without_extras, "run", "--help", cwd=runs)
    assert code == 0 and "tinyllama" in text


def test_the_tool_aligns_without_extras_and_says_what_a_text_file_requires(without_extras, tmp_path):
    planted_pair(tmp_path)
    command = ["align", "a", "b", "--out", "g.safetensors"]
    from_weights = ["--evidence", "weights", "--tokens", "0"]
    code, text = isolated(without_extras, *command, *from_weights, cwd=tmp_path)
    assert code == 0 and (tmp_path / "g.safetensors").is_file() and not (tmp_path / "g.png").exists(), text
    code, text = isolated(without_extras, *command, "--force", "--text", "text.txt", cwd=tmp_path)
    assert code == 2 and "this command requires datasets: pip install 'gaugeport[tool]'" in text, text


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_wheel_installs_without_extras_in_an_empty_environment(unpacked, runs, tmp_path):
    """Needs a package index."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (wheel,) = unpacked.parent.glob("*.whl")
    python, constraints = tmp_path / "venv" / "bin" / "python", ROOT / "constraints.txt"
    (torch_version,) = [line for line in constraints.read_text().split() if line.startswith("torch==")]
    for what in ([torch_version], ["-c", str(constraints), str(wheel)]):
        subprocess.run([python, "-m", "pip", "install", "-q", *what], check=True)
    script = LIBRARY.replace("SITE", repr(str(runs))).replace("EXTRAS", "('hydra', 'pandas', 'wandb')")
    subprocess.run([python, "-c", script.replace("README_LINES", readme_lines())], check=True, cwd=runs)
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "gaugeport", "tables", "a1"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "gaugeport[pipeline]" in done.stdout
