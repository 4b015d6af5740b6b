"""The text of ``gaugeport run --help``, made without Hydra or torch so that it is quick."""

from __future__ import annotations

import textwrap

from gaugeport.pipeline.paths import data_dir

WIDTH = 100
"""Columns of the text."""

GROUPS = {
    "model": "what is fine-tuned and matched; model.path=FOLDER or FILE.gguf for your own",
    "gauge": "the group that the gauge is sought in",
    "matcher": "how the gauge is found",
    "route": "from A's last checkpoint to B's: directly, through their base, or along all checkpoints",
    "task": "what is measured",
    "data": "the texts; docs is English that comes with Python, data=text data.path=FILE for your own",
    "training": "how the base model and its two fine-tuning runs are trained",
    "measurement": "which activations the evidence is taken from",
    "profile": "the size of everything: seconds, minutes, or the paper's",
    "tracker": "where runs are logged",
    "experiment": "a table: with -m all of its jobs",
}
"""Config group -> what a choice of it decides."""

TEXT = """\
Usage: gaugeport run [-m] [--dry-run] [GROUP=CHOICE | KEY=VALUE]...

Run one job: train what it needs, measure, and keep the record. What is stored already is not run
again. With -m run a sweep: every combination of the values given, separated by commas.

Examples:
  gaugeport run model=qwen route=endpoint seed=3
  gaugeport run -m model=tinyllama,qwen gauge=permutation,signed_permutation seed=0,1
  gaugeport run -m experiment=trajectory seed=0      the jobs of a table
  gaugeport run -m seed=0,1,2,3 hydra/launcher=joblib
  gaugeport run model.path=runs/lr=1e-4 task=steering_sentiment 'task.template={text} It was'

Paths and other texts are taken as they are typed. With -m a comma separates values: quote a path
or text that holds one, 'model.path="a,b"'.

Options:
  -m, --multirun  run a sweep; hydra/launcher=joblib (submitit_slurm, ray, ...) chooses what runs it
  --dry-run       print what would be run and how long it takes; run nothing
  stage=NAME      build only that stage of the job: data, base, A, ...
  --cfg job       print every config key and value of the job
  --hydra-help    Hydra's own flags

Config groups:
"""


def run_help() -> str:
    """Return the help of ``gaugeport run``, with every config group and its choices."""
    conf = data_dir("conf")
    names = sorted(p.name for p in conf.iterdir() if p.is_dir() and p.name != "hydra")
    groups = [*(g for g in GROUPS if g in names), *(g for g in names if g not in GROUPS)]
    paragraphs = []
    for group in groups:
        choices = ", ".join(sorted(p.stem for p in (conf / group).glob("*.yaml")))
        text = textwrap.fill(f"{group}: {choices}", WIDTH, initial_indent="  ", subsequent_indent="      ")
        paragraphs.append(f"{text}\n      {GROUPS.get(group, '')}".rstrip())
    return TEXT + "\n".join(paragraphs)
