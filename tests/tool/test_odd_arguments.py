"""Give the tool arguments at random: right ones, odd ones, and paths of every kind, in any order.

A command ends with one of the documented exit codes. A refusal is one line, and changes nothing; a result
lies where ``--out`` says, and no source changes.
"""

import contextlib
import json
import os
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (it makes folders at home, which is another below)
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import sandbox
from damage import fuzz
from gaugeport.groups import load
from processes import answered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]

PATHS = [
    *("a", "b", "gpt2", "g.safetensors", "rotation.safetensors", "v.npy", "top.json", "sae", "adapter"),
    *("checkpoint-1", "runs", "runs/checkpoint-1", "text.txt", "a/config.json", "a/model.safetensors"),
    *("sae/sae.safetensors", "a=b (2) {x}/1.10", "empty", "nothing.txt", "noise.safetensors", "bad.json"),
    *("loop", "nowhere", "pipe", "pipe.safetensors", "a/../b", "./a/", "~/a", "~nobody-here/a"),
    *("missing", "missing/x", "owner/name", "v.npy/x", "loop/x", "x" * 300, ".", "..", ""),
]
NEW = [
    *("new", "new.safetensors", "new.npy", "new.json", "new.png", "deep/er/new.safetensors", "a/new.npy"),
    *("empty/new.safetensors", "wörter und mehr.json", ".hidden", "new.", "nowhere/new", "~/new.safetensors"),
]
# what a shell can pass: any bytes but 0, those that are no UTF-8 as surrogates; a slash could lead elsewhere
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0/") | st.just("\udcff"), max_size=6)
ODD = st.sampled_from(PATHS + NEW) | TEXT
NUMBERS = [
    "0",
    "1",
    "-1",
    "2",
    "0.5",
    "-0.1",
    "nan",
    "inf",
    "1e3",
    "1e-400",
    str(10**23),
    "1_0",
    "٣",
    "",
    " 2",
]
GROUPS = ["auto", "signed_permutation", "permutation", "global_sign_permutation", "orthogonal", "affine"]
SITES = ["all", "block1", "block0,block1", "block9", "final", "model.layers.0", "", ",", "block1,block1"]


def one_of(*values, odd=ODD):
    """Return one of these most of the time, and else something odd."""
    return st.integers(0, 9).flatmap(lambda i: odd if i == 5 else st.sampled_from(values))


def number(*values):
    """Return one of these numbers most of the time, and else another, or what is none."""
    return one_of(*values, odd=st.sampled_from(NUMBERS))


MODELS = one_of("a", "b", "a", "b", "checkpoint-1", "gpt2", "a=b (2) {x}/1.10")
READS = {"--text": one_of("text.txt"), "--tokens": number("200", "64"), "--field": one_of("text")}
COMMON = {"--json": None}
MAKES = {"--out": st.sampled_from(NEW) | ODD, "--force": None, **COMMON}
GAUGE = {"--gauge": one_of("g.safetensors", "g.safetensors", "rotation.safetensors")}
MOVES = {
    "model": (MODELS, {"--workers": number("1", "2", "100000")}, ["new", "empty"]),
    "sae": (one_of("sae"), {}, ["new"]),
    "direction": (one_of("v.npy"), {"--axis": number("0", "-1")}, ["new.npy"]),
    "indices": (one_of("top.json"), {}, ["new.json"]),
    "lora": (one_of("adapter"), {"--model": one_of("a")}, ["new"]),
    "checkpoint": (one_of("checkpoint-1", "a=b (2) {x}/1.10"), {}, ["new"]),
}
"""Kind -> its source, its options, and names for what is written."""

COMMANDS = {
    "align": (
        [st.just("align"), MODELS, MODELS],
        READS
        | MAKES
        | {
            "--along": st.tuples(one_of("runs"), one_of("runs")),
            "--base": MODELS,
            "--evidence": one_of("activations", "weights", "both"),
            "--group": one_of(*GROUPS),
            "--sites": one_of(*SITES),
            "--abstain": number("0.01", "0"),
            "--figure": st.sampled_from(NEW) | ODD,
        },
    ),
    "merge": (
        [st.just("merge"), MODELS, MODELS],
        {**MAKES, "--alpha": number("0.3", "1"), **GAUGE},
    ),
    "audit": (
        [st.just("audit"), MODELS],
        READS
        | COMMON
        | {
            "--indices": one_of("top.json"),
            "--direction": one_of("v.npy"),
            "--sae": one_of("sae"),
            "--site": one_of(*SITES),
            "--draws": one_of("1", "2", odd=st.sampled_from(["0", "-1", "x"])),
            "--seed": number("1", "0"),
        },
    ),
    "certify": ([st.just("certify"), MODELS], {"--seed": number("1", "0"), "--fold": None, **COMMON}),
    "chart draft": ([st.just("chart"), st.just("draft"), MODELS], {"--seed": number("1", "0"), **COMMON}),
} | {
    f"transport {kind}": (
        [st.just("transport"), one_of(*[kind] * 8), source],
        MAKES | GAUGE | options | {"--out": one_of(*names)},
    )
    for kind, (source, options, names) in MOVES.items()
}
"""Command -> its arguments in order, and its options."""

USUAL = ("--text", "--tokens", "--out", "--gauge", "--model")
"""Options that are nearly always given: most commands require them, or would read much without."""


@st.composite
def command_lines(draw, command):
    """Draw the arguments of a command."""
    positional, options = COMMANDS[command]
    line = [draw(argument) for argument in positional]
    for name, value in options.items():
        if draw(st.integers(1, 16)) <= (15 if name in USUAL else 4):
            given = () if value is None else draw(value)
            line += [name, *([given] if isinstance(given, str) else given)]
    match draw(st.sampled_from(["as it is"] * 12 + ["leave out", "twice", "insert", "swap"])):
        case "leave out":
            del line[draw(st.integers(1, len(line) - 1))]
        case "twice":
            line.append(line[draw(st.integers(1, len(line) - 1))])
        case "insert":
            line.insert(draw(st.integers(1, len(line))), draw(ODD))
        case "swap":
            i, j = (draw(st.integers(1, len(line) - 1)) for _ in range(2))
            line[i], line[j] = line[j], line[i]
    return line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("box") / "here"
    place.mkdir()
    sandbox.build(place)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(place),
    ):
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setenv("HOME", str(place))
        yield place


def named(line, options):
    """Return the paths that options name."""
    given = [w for o, w in pairwise(line) if o in options]
    given += [w.partition("=")[2] for w in line if w.startswith(tuple(f"{o}=" for o in options))]
    return [Path(os.path.abspath(os.path.expanduser(w))) for w in given]


def allowed(path, outs):
    """Return whether a path may change: a result, what is in it, or a folder made for it."""
    return any(path == out or out in path.parents or path in out.parents for out in outs)


@pytest.mark.parametrize("command", COMMANDS)
@fuzz(5)
@given(data=st.data())
def test_odd_arguments(place, command, data):
    line = data.draw(command_lines(command))
    before = sandbox.snapshot(place.parent)
    code, out, err = answered(line, place)
    after = sandbox.snapshot(place.parent)
    try:
        event(f"exit code {code}")
        check(line, code, out, err, before, after)
    finally:
        sandbox.restore(before, after)


def check(line, code, out, err, before, after):
    assert code in (0, 1, 2, 3), err
    changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert not [p for p in changed if p.endswith((".partial", ".replaced"))]
    if code in (0, 3):
        outs = named(line, ("--out", "--figure"))
        outs += [o.with_suffix(".png") for o in named(line, ("--out",)) if line[0] == "align" and o.name]
        assert all(allowed(Path(p), outs) for p in changed), changed
        read = {os.path.abspath(w) for w in line[1:] if os.path.exists(w)} - {str(o) for o in outs}
        read = [r for r in read if r != os.getcwd() and not os.getcwd().startswith(f"{r}/")]
        assert not [p for p in changed for r in read if p == r or p.startswith(f"{r}/")]
        if line[0] == "align" and "--help" not in line:
            assert load(outs[0]).size == 32
        assert "--json" not in line or "--help" in line or json.loads(out)["exit"] == code
        return
    assert not changed
    if "─ Error ─" not in err:  # typer's own
        if "--json" in line:
            assert json.loads(out)["error"]
        else:
            assert out == "" and err.startswith("error: ") and err.count("\n") == 1, out + err
