"""The command line: the papers (``headline | run | tables | status | report | fetch``), and the commands for
people's own checkpoints (``gaugeport.tool.cli``).

This module imports nothing heavy, so that ``--help`` is quick; a command imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import io
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from gaugeport.tool.answer import Exit
from gaugeport.tool.cli import EXIT_CODES, error_object
from gaugeport.tool.cli import app as tool
from gaugeport.tool.command_group import CommandGroup

if TYPE_CHECKING:
    from gaugeport.pipeline.execution.failures import Failure

ABOUT = (
    "Match the coordinates of two checkpoints, move what is written in them, and remake the papers' tables."
)

app = typer.Typer(
    cls=CommandGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=ABOUT,
    epilog=EXIT_CODES,
)  # fmt: skip
app.add_typer(tool)
console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
BROKE_OFF = (*FULL_DISK, errno.EIO)
"""Errors of the system that end work which had begun: what is done is kept."""

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command whose arguments are Hydra's: typer reads none of them."""

HYDRA_FLAGS = ("--hydra-help", "--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p")
"""Flags of ``gaugeport run`` that Hydra answers itself."""

Profile = Annotated[str, typer.Option(help="smoke, quick, mini, real or paper.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A further Hydra override for every job.")]


@app.command(context_settings=PASS_THROUGH)
def run(context: typer.Context) -> None:
    """Run one job, or a sweep with -m, from Hydra overrides such as model=qwen route=endpoint."""
    arguments = context.args
    if any(a in arguments for a in ("--help", "-h")):
        from gaugeport.pipeline.commands.help import run_help

        return console.print(f"{run_help()}\n\n{textwrap.fill(EXIT_CODES, 100)}", markup=False)

    from gaugeport.pipeline.commands.run import run_one, run_sweep, show_config

    if any(a in arguments for a in HYDRA_FLAGS):
        return show_config(arguments)
    dry_run = "--dry-run" in arguments
    sweep = "-m" in arguments or "--multirun" in arguments
    overrides = [a for a in arguments if a not in ("-m", "--multirun", "--dry-run")]
    if sweep:
        _end(*run_sweep(overrides, dry_run))
    else:
        _end(*run_one(overrides, dry_run))


@app.command(epilog=EXIT_CODES)
def tables(
    ids: Annotated[list[str] | None, typer.Argument(help="Table ids or names; all when omitted.")] = None,
    profile: Profile = "mini",
    run: Annotated[
        bool, typer.Option(help="Run what is missing first; --no-run makes tables of what is there.")
    ] = True,
    headline: Annotated[
        bool, typer.Option(help="Only the headline jobs: one model, one training seed per claim.")
    ] = False,
    wide: Annotated[
        bool,
        typer.Option("--wide", help="Print everything that was measured, in as many columns as it takes."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the jobs and an estimate; run nothing.")
    ] = False,
    processes: Annotated[int | None, typer.Option(help="Jobs side by side; all cores when omitted.")] = None,
    launcher: Annotated[
        str | None, typer.Option(help="One of Hydra's launchers instead: joblib, submitit_slurm, ray, …")
    ] = None,
    set_: Set = None,
) -> None:
    """Make tables: run missing jobs, write tables and figures, print the tables named and the claims."""
    from gaugeport.pipeline.commands.screen import end_screen
    from gaugeport.pipeline.commands.tables import choose, made, run_missing, write_tables

    chosen = choose(ids or [], profile, headline, set_ or [], keep=not dry_run)
    if dry_run:
        from gaugeport.pipeline.commands.run import describe

        return console.print(describe(chosen.asked, processes), markup=False)
    failures = run_missing(chosen, launcher, processes) if run else []
    if any(failure.error.full_disk for failure in failures):
        _end("", failures)  # no room for tables either
    if len(chosen.wanted) > 3:
        typer.echo(f"making {len(chosen.wanted)} tables", err=True)
    made_tables = made(chosen)
    claims = write_tables(chosen, made_tables)
    _end(end_screen(chosen, made_tables, claims, bool(ids), wide), failures)


@app.command(epilog=EXIT_CODES)
def headline(
    model: Annotated[
        Path | None, typer.Option(help="A model folder or .gguf file in place of the model that is fetched.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Groups of claims side by side; all cores.")] = None,
    set_: Set = None,
) -> None:
    """Measure the papers' main claims in minutes, on a pretrained model and on small ones trained here."""
    from gaugeport.pipeline.commands.headline import Headline
    from gaugeport.pipeline.report.headline import load_headline

    claims = Headline(load_headline(), model, set_ or [])
    claims.run(processes)
    _end(claims.screen(), claims.failures)


@app.command(epilog=EXIT_CODES)
def status(
    what: Annotated[
        list[str] | None, typer.Argument(help="Tables and sweeps; all of them when omitted.")
    ] = None,
    profile: Profile = "mini",
    set_: Set = None,
) -> None:
    """List how many jobs of tables and sweeps are done, failed and missing, and the store's size."""
    from gaugeport.pipeline.commands.status import status_text

    console.print(status_text(what or [], profile, set_ or []), markup=False)


@app.command(epilog=EXIT_CODES)
def report(profile: Profile = "mini", set_: Set = None) -> None:
    """Write outputs/report/index.html: every claim, table and figure, and what made each."""
    from gaugeport.pipeline.commands.report import write_report

    console.print(f"report in {write_report(profile, set_ or [])}", markup=False)


@app.command(epilog=EXIT_CODES)
def fetch(
    model: Annotated[str, typer.Argument(help="A model config such as smollm2, or a .gguf file.")],
    out: Annotated[
        Path | None, typer.Option(help="A new folder to copy it to; else the store alone.")
    ] = None,
    set_: Set = None,
) -> None:
    """Get a pretrained model: check and dequantise it once, and say where it lies and under which licence."""
    from gaugeport.pipeline.commands.fetch import fetch as fetch_model

    console.print(fetch_model(model, out, set_ or []), markup=False)


MOST_FAILURES_PRINTED = 5


def _end(text: str, failures: list[Failure]) -> None:
    """Print a command's result, then what failed; exit with code 1 if anything did."""
    if text:
        console.print(text, markup=False)
    for failure in failures[:MOST_FAILURES_PRINTED]:
        errors.print(f"FAILED {failure}", style="red", markup=False)
    if failures:
        more = len(failures) - MOST_FAILURES_PRINTED
        if more > 0:
            errors.print(f"and {more} more: `gaugeport status` lists all", style="red", markup=False)
        errors.print(
            f"{len(failures)} failed; the same command runs again what is not done, and only that",
            style="red",
        )
        raise typer.Exit(Exit.FAILED)


def main() -> None:
    """Run the command line. An error of the library or the system is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        app()
    except OSError as e:
        _stop(_of_system(e), e, Exit.FAILED if e.errno in BROKE_OFF else Exit.REFUSED)
    except ModuleNotFoundError as e:
        if e.name is None or e.name.split(".")[0] == "gaugeport":
            raise
        extra = "tool" if e.name in ("datasets", "gguf", "matplotlib", "sae_lens") else "pipeline"
        _stop(f"this command requires {e.name}: pip install 'gaugeport[{extra}]'", e)
    except (ValueError, TypeError) as e:
        _stop(str(e), e)


def _of_system(e: OSError) -> str:
    """Return an error of the system, or one of the library in its form, as a sentence with the path."""
    if e.errno is None:
        return str(e)
    names = [str(name) for name in (e.filename, e.filename2) if name is not None]
    advice = "free some space and run the same command" if e.errno in FULL_DISK else ""
    return ": ".join(filter(None, [" -> ".join(names), e.strerror, advice]))


def _stop(message: str, cause: Exception, code: Exit = Exit.REFUSED) -> NoReturn:
    # the library names its argument, which is an option here
    message = re.sub(r"\s*\n\s*", " ", message).replace("force=True", "--force")
    if "--json" in sys.argv:
        print(error_object(message))
    else:
        errors.print(f"error: {message}", style="red", markup=False)
    raise SystemExit(int(code)) from cause


if __name__ == "__main__":
    main()
