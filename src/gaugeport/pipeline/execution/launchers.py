"""What runs the steps of a wave: processes of this machine, or any of Hydra's launchers (joblib, submitit, ray, …)."""

from __future__ import annotations

import functools
import gc
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from joblib import Parallel, delayed
from omegaconf import DictConfig

from gaugeport.models.loading import hide_progress_bars
from gaugeport.pipeline.config.compose import JobSpec, from_config
from gaugeport.pipeline.execution.failures import Error
from gaugeport.pipeline.execution.jobs import run_job
from gaugeport.pipeline.execution.plan import Step
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.stages.catalogue import build_stage
from gaugeport.pipeline.store.store import Store
from gaugeport.utils.devices import use_one_thread

Launch = Callable[[Sequence[Step]], Iterable[Error | None]]
"""Does some steps, however it likes, and yields in their order what went wrong with each (None: nothing)."""


def local(processes: int | None = None) -> Launch:
    """Processes of this machine on one thread each, so that results do not depend on how many run side by side.

    The default is all cores, or one process where there is a GPU.
    """

    def launch(steps: Sequence[Step]) -> Iterable[Error | None]:
        # joblib restarts a worker whose memory grew, as it does after holding a run's checkpoints; nothing is lost
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
        n = min(processes or cores(), len(steps))
        return Parallel(n_jobs=n, return_as="generator")(delayed(attempt)(s.composed, s.stage) for s in steps)

    return launch


def cores() -> int:
    """How many steps run side by side on this machine where nothing else is asked for."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def by_hydra(overrides: Sequence[str]) -> Launch:
    """One of Hydra's launchers, chosen as on Hydra's command line: ``hydra/launcher=submitit_slurm hydra.launcher.timeout_min=60``.

    ``hydra.sweeper.max_batch_size`` limits how many steps it gets at a time. Raises ``ValueError`` for a launcher that
    is not there.
    """
    _launcher(overrides)  # what is wrong with the launcher is wrong once, not with every step

    def launch(steps: Sequence[Step]) -> Iterator[Error | None]:
        launcher, config = _launcher([*overrides, f"paths.outputs='{steps[0].composed.outputs.resolve()}'"])
        size = config.hydra.sweeper.max_batch_size or len(steps)
        for first in range(0, len(steps), size):
            batch = [_overrides(step) for step in steps[first : first + size]]
            yield from (result.return_value for result in launcher.launch(batch, initial_job_idx=first))

    return launch


def attempt(c: JobSpec, stage: str | None) -> Error | None:
    """Build a stage of a job, or run the job, on one thread. What goes wrong is returned: it must not stop other steps."""
    hide_progress_bars()
    _settle()
    use_one_thread()
    try:
        if stage is None:
            run_job(c)
        else:
            build_stage(c.job, Store(c.outputs / "store"), stage)
    except Exception as e:
        return Error.of(e, c.outputs)
    return None


@functools.cache
def _settle() -> None:
    """Once a process: what is imported stays. Trainer collects garbage at its end, a third of a second through all of it."""
    gc.collect()
    gc.freeze()


def _attempt_config(config: DictConfig) -> Error | None:
    try:
        return attempt(from_config(config, ()), config.stage)
    except Exception as e:
        return Error.of(e)


def _overrides(step: Step) -> list[str]:
    stage = [] if step.stage is None else [f"stage={step.stage}"]
    return [*step.composed.overrides, f"paths.outputs='{step.composed.outputs.resolve()}'", *stage]


def _launcher(overrides: Sequence[str]) -> tuple[Launcher, DictConfig]:
    """One of Hydra's launchers, and the config of the sweep, with Hydra's own part."""
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
