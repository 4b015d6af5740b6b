"""The script that writes experiments/FINDINGS.md, as a module."""

import importlib.util

from gaugeport.pipeline.paths import data_dir

EXPERIMENTS = data_dir("experiments")


def load():
    spec = importlib.util.spec_from_file_location("findings", EXPERIMENTS / "findings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
