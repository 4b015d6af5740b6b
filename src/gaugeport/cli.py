"""The command line: ``gaugeport run | tables | certify``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False, soft_wrap=True)

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
HEADLINE = ("a1", "a2", "a3", "c2")


@app.command(context_settings=PASS_THROUGH)
def run(context: typer.Context) -> None:
    """Run one job, or a sweep with -m: Hydra overrides, e.g. model=qwen route=endpoint; --help lists the groups."""
    import hydra
    import torch
    from omegaconf import DictConfig

    from gaugeport.paths import data_dir

    @hydra.main(config_path=str(data_dir("conf")), config_name="config", version_base="1.3")
    def one(config: DictConfig) -> None:
        from gaugeport.compose import from_config
        from gaugeport.jobs import run_job
        from gaugeport.loading import quiet
        from gaugeport.report.summary import summary

        quiet()
        torch.set_num_threads(1)
        c = from_config(config, ())
        print(summary(run_job(c.job, c.outputs, c.tracker)), flush=True)

    sys.argv = ["gaugeport run", *context.args]
    one()


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
    from gaugeport.compose import experiment, experiment_names, jobs_of
    from gaugeport.jobs import contents
    from gaugeport.records import read_records
    from gaugeport.report.tables import make_claims, make_table
    from gaugeport.runner import run_all

    wanted = [experiment(i) for i in ids or (HEADLINE if headline else experiment_names())]
    wanted.sort(key=lambda e: e.id)
    jobs = {e.id: jobs_of(e, profile, headline, set_ or ()) for e in wanted}
    distinct = {c.job.hash(contents(c.job)): c for found in jobs.values() for c in found}
    outputs = next(iter(distinct.values())).outputs
    failures = run_all(list(distinct.values()), processes) if run else []
    for e in wanted:
        records = read_records(outputs / "records", [c.job.hash(contents(c.job)) for c in jobs[e.id]])
        if not records:
            console.print(f"{e.id} {e.name}: no records; run `gaugeport tables {e.id} --profile {profile}`")
            continue
        text = make_table(e.name, e.id, records, len(jobs[e.id]), outputs)
        console.print(text, markup=False)
    console.print(make_claims(outputs, profile), markup=False)
    console.print(f"tables in {outputs / 'tables'}, figures in {outputs / 'figures'}")
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
