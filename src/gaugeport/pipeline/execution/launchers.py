"""Launch the steps of a wave in processes of this machine, or by one of Hydra's launchers."""

from __future__ import annotations

import functools
import gc
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from joblib import Parallel, delayed
from omegaconf import DictConfig

from gaugeport.models.loading import hide_progress_bars
from gaugeport.pipeline.config.compose import from_config
from gaugeport.pipeline.config.defaults import unnamed
from gaugeport.pipeline.config.texts import setting
from gaugeport.pipeline.execution.failures import Error
from gaugeport.pipeline.execution.jobs import run_job
from gaugeport.pipeline.execution.machine import machine_for
from gaugeport.pipeline.execution.plan import Step
from gaugeport.pipeline.execution.workers import end_with_parent
from gaugeport.pipeline.job import JobSpec
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.stages.catalogue import build_stage
from gaugeport.pipeline.stages.rows import is_pretrained
from gaugeport.pipeline.store.store import Store

Launch = Callable[[Sequence[Step]], Iterable[Error | None]]
"""Runs some steps, and yields in their order the error of each, or None."""


def local(processes: int | None = None) -> Launch:
    """Return a launcher that uses processes of this machine, which share torch's CPU threads.

    Args:
        processes: How many; None for all cores, or for one where there is a GPU.
    """

    def launch(steps: Sequence[Step]) -> Iterable[Error | None]:
        # joblib restarts a worker whose memory grew, as after holding a run's checkpoints; nothing is lost
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
        n = min(processes or cores(), len(steps))
        threads = max(1, torch.get_num_threads() // n)
        return Parallel(n_jobs=n, return_as="generator")(
            delayed(attempt)(s.composed, s.stage, threads) for s in steps
        )

    return launch


def cores() -> int:
    """Return how many steps run side by side on this machine by default."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def by_hydra(overrides: Sequence[str]) -> Launch:
    """Return one of Hydra's launchers.

    Args:
        overrides: What chooses it, as on Hydra's command line: ``hydra/launcher=submitit_slurm
            hydra.launcher.timeout_min=60``. ``hydra.sweeper.max_batch_size`` limits how many steps it gets at
            a time.

    Raises:
        ValueError: There is no such launcher.
    """
    _hydra_launcher(overrides)  # an error of the launcher is raised once, and not by every step

    def launch(steps: Sequence[Step]) -> Iterator[Error | None]:
        launcher, config = _hydra_launcher([*overrides, _outputs(steps[0])])
        size = config.hydra.sweeper.max_batch_size or len(steps)
        for first in range(0, len(steps), size):
            batch = [_overrides(step) for step in steps[first : first + size]]
            yield from (result.return_value for result in launcher.launch(batch, initial_job_idx=first))

    return launch


def attempt(spec: JobSpec, stage: str | None, threads: int | None = None) -> Error | None:
    """Build a stage of a job, or run the job; return the error, so that other steps go on.

    Args:
        spec: The job.
        stage: The stage to build; None runs the job.
        threads: The step's share of the CPU, as in :func:`machine_for`.
    """
    end_with_parent()
    hide_progress_bars()
    _exempt_imports_from_garbage_collection()
    try:
        with machine_for(spec.job, threads):
            if stage is None:
                run_job(spec)
            else:
                build_stage(spec.job, Store(spec.outputs / "store"), stage)
    except Exception as e:
        return Error.of(e, spec.outputs)
    return None


@functools.cache
def _exempt_imports_from_garbage_collection() -> None:
    """Save a third of a second at the end of every training run, when Trainer collects garbage."""
    gc.collect()
    gc.freeze()


def _attempt_config(config: DictConfig) -> Error | None:
    """Run the step of a composed config: the task that Hydra's launchers call."""
    try:
        return attempt(from_config(config, ()), config.stage)
    except Exception as e:
        return Error.of(e)


def _overrides(step: Step) -> list[str]:
    """Return the overrides from which a process elsewhere composes a step."""
    stage = [] if step.stage is None else [f"stage={step.stage}"]
    job, given = step.composed.job, step.composed.overrides
    # Hydra composes there, and knows nothing of what a pretrained model gets beside its overrides
    more = unnamed(job.data.name, given) if is_pretrained(job) else []
    return [*given, *more, _outputs(step), *stage]


def _outputs(step: Step) -> str:
    """Return the override of a step's folder of outputs, for a process that may run elsewhere."""
    return setting("paths.outputs", str(step.composed.outputs.resolve()))


def _hydra_launcher(overrides: Sequence[str]) -> tuple[Launcher, DictConfig]:
    """Return one of Hydra's launchers, and the config of the sweep with Hydra's own part.

    Hydra has no public way to use a launcher without its command line: this function alone reaches into it.
    """
    from hydra._internal.callbacks import Callbacks

    try:
        with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            config = hydra.compose_config("config", list(overrides), RunMode.MULTIRUN)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=_attempt_config, config=config
        )
    except HydraException as e:
        raise ValueError(f"{' '.join(overrides)}: {e}") from e
    return launcher, config
