"""The command line: ``gaugeport run | tables | certify``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False, soft_wrap=True)

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
HYDRA_FLAGS = ("-m", "--multirun", "--help", "-h", "--cfg", "--info", "--hydra-help")


@app.command(context_settings=PASS_THROUGH)
def run(context: typer.Context) -> None:
    """Run one job, or a sweep with -m: Hydra overrides, e.g. model=qwen route=endpoint; --help lists the groups."""
    from gaugeport.compose import compose_config
    from gaugeport.paths import data_dir
    from gaugeport.runner import run_config

    if not any(a in context.args for a in HYDRA_FLAGS):
        return run_config(compose_config(context.args))
    import hydra

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to main(), which prints them as one line
    sys.argv = ["gaugeport run", *context.args]
    hydra.main(config_path=str(data_dir("conf")), config_name="config", version_base="1.3")(run_config)()


@app.command()
def tables(
    ids: Annotated[list[str] | None, typer.Argument(help="Table ids or names; all when omitted.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, mini or paper.")] = "mini",
    run: Annotated[bool, typer.Option(help="Run what is missing first; --no-run tabulates what is there.")] = True,
    headline: Annotated[
        bool, typer.Option(help="Only the headline jobs: one model, one training seed per claim.")
    ] = False,
    processes: Annotated[int | None, typer.Option(help="Jobs side by side; all cores when omitted.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A further Hydra override for every job.")] = None,
) -> None:
    """Make tables: run missing jobs, then write and print tables, figures and the claims summary."""
    from gaugeport.jobs import job_id
    from gaugeport.records import read_records
    from gaugeport.report.tables import tabulate, write, write_claims
    from gaugeport.runner import run_all
    from gaugeport.sweeps import experiment, experiment_names, jobs_of, variant_of

    extra = set_ or []
    every = sorted((experiment(name) for name in experiment_names()), key=lambda e: e.id)
    wanted = [experiment(i).id for i in ids] if ids else [e.id for e in every if e.headline or not headline]
    jobs = {e.id: jobs_of(e, profile, extra=extra) for e in every}
    asked = {i: jobs_of(experiment(i), profile, headline=True, extra=extra) if headline else jobs[i] for i in wanted}
    distinct = {job_id(c.job): c for found in asked.values() for c in found}
    outputs, variant = next(iter(distinct.values())).outputs, variant_of(profile, extra)
    failures = run_all(list(distinct.values()), processes) if run else []
    tables: dict[str, pd.DataFrame] = {}
    for e in every:
        records = read_records(outputs / "records", [job_id(c.job) for c in jobs[e.id]])
        if records:
            tables[e.id] = tabulate(e.name, records)
        if records and e.id in wanted:
            found = write(e.name, e.id, tables[e.id], len(records), len(jobs[e.id]), outputs, variant)
            console.print(found, markup=False)
        elif e.id in wanted:
            console.print(f"{e.id} {e.name}: no records; run `gaugeport tables {e.id} --profile {profile}`")
    console.print(write_claims(tables, profile, outputs, variant, wanted if ids else list(jobs)), markup=False)
    console.print(f"tables in {outputs / 'tables' / variant}, figures in {outputs / 'figures' / variant}")
    for failure in failures:
        console.print(f"FAILED {failure.what}\n  {failure.error}", style="red", markup=False)
    if failures:
        raise typer.Exit(1)


@app.command()
def certify(
    model: Annotated[str, typer.Argument(help="A Hugging Face model folder, or a hub id.")],
    seed: Annotated[int, typer.Option(help="Seed of the random elements and tokens.")] = 0,
    fold: Annotated[bool, typer.Option(help="Fold the gains into the readers first.")] = False,
) -> None:
    """Measure which group leaves a model's function alone, inside and outside, and report degenerate gains."""
    import torch

    from gaugeport.charts import certify as certify_model
    from gaugeport.charts import fold_gains
    from gaugeport.loading import load_model, quiet

    quiet()
    loaded = load_model(model, dtype="float32")
    if fold:
        loaded = fold_gains(loaded)
    console.print(str(certify_model(loaded, generator=torch.Generator().manual_seed(seed))), markup=False)


def main() -> None:
    """Entry point: library errors are one line, with exit code 2."""
    try:
        app()
    except (ValueError, FileNotFoundError, ConnectionError) as e:
        console.print(f"error: {e}", style="red", markup=False)
        raise SystemExit(2) from e


if __name__ == "__main__":
    main()
