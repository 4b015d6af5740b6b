"""Move what an optimizer has accumulated to another residual basis, or say why it cannot be moved."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import chart_of
from gaugeport.groups import Element, LinearGauge, check_is_element
from gaugeport.models.checkpoint import Checkpoint
from gaugeport.transport import optimizer_checks as checks
from gaugeport.transport.axis import InPlace
from gaugeport.transport.checkpoint import write_moved_weights
from gaugeport.transport.folders import naming
from gaugeport.transport.model import check_gauge_fits, transport_model
from gaugeport.transport.optimizer_accelerate import AcceleratorState, read_accelerator_state
from gaugeport.transport.optimizer_checkpoint import (
    ACCELERATE_FILE,
    OPTIMIZER_FILE,
    open_training_checkpoint,
    state_file_of,
    trainer_names,
    write_checkpoint,
    write_folder,
)
from gaugeport.transport.optimizer_names import names_by_index, optimizers_by_index, unwrapped
from gaugeport.transport.optimizer_rules import OPTIMIZERS, state_axes
from gaugeport.utils.files import check_apart, check_new
from gaugeport.utils.progress import Progress


def transport_optimizer(
    state_dict: Mapping[str, Any] | str | Path,
    g: Element,
    model: nn.Module | None = None,
    *,
    names: Sequence[str] | None = None,
    optimizer: str | None = None,
    out: str | Path | None = None,
    strict: bool = True,
    allow_dropout: bool = False,
    allow_half: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Move an optimizer state to the coordinates of ``transport_model(model, g)``.

    A run that resumes from the moved state and weights stays in step with the reference run if the
    optimizer's *update* is covariant too: Adam, AdamW, Lion and Adafactor under signed permutations; SGD and
    Muon also under rotations, on a folded chart whose gains are frozen (``optimizer_rules.OPTIMIZERS`` says
    why). Dropout must be 0. Clipping by the global norm is covariant under all of these; clipping by value
    under signed permutations only, and no state shows which clipping a run uses.

    Args:
        state_dict: A state dict of ``torch.optim`` (numbered), or of ``torch.distributed.checkpoint``'s
            ``get_optimizer_state_dict`` with ``full_state_dict=True`` (named); or the path of a checkpoint
            folder, of ``transformers.Trainer`` or of ``Accelerator.save_state``. Prefixes that DDP, FSDP and
            torch.compile put into names (``module.``, ``_orig_mod.``) are kept, and read over.
        g: The gauge, linear and of the model's width.
        model: The model *before* it is moved. For a folder it is read from there, and a model given as well
            says by its ``requires_grad`` which parameters were trained; a folder of accelerate, which has no
            config, needs one of the architecture.
        names: The parameter names in the optimizer's order. Without them the state's ``param_names`` decide,
            then Trainer's order (a folder whose state has two param_groups), then the order of
            ``model.named_parameters()`` (a state with one group). Shapes are checked, but parameters of one
            shape in another order cannot be told apart without names.
        optimizer: A name listed in ``OPTIMIZERS``, if the state does not tell which optimizer wrote it.
        out: For a folder: a new folder for the moved weights and state, from which
            ``Trainer.train(resume_from_checkpoint=out)`` or ``Accelerator.load_state(out)`` continues.
        strict: Refuse a gauge from outside the chart's or the optimizer's group. Negative controls pass
            False; a rotation then leaves gains and second moments as they are.
        allow_dropout: Accept a model with dropout, for a mere restart.
        allow_half: Accept 16-bit parameters and states. They move exactly, but a run resumed in 16 bits
            rounds its sums in another order; only sign changes are sure to stay in step.
        force: Replace what lies at ``out``.
        progress: Called as ``progress(done, total, what)`` after every state, and with the bytes of weights
            (:mod:`gaugeport.utils.progress`).

    Returns:
        A new state dict; the given one is not changed.

    Raises:
        TypeError: If ``g`` is not a gauge element.
        ValueError: If ``g`` is outside the chart's group or the optimizer's; if the optimizer is unknown or
            ambiguous; if the states do not fit the named parameters (missing, reordered, of other shapes); if
            the states are 8-bit, sharded or flattened; if the model has adapters; for dropout and 16 bits,
            unless allowed; if ``out`` is not apart from the folder. Nothing is written then.
        FileNotFoundError: If the folder or one of its files is missing.
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    # 1) read the state and the model
    folder = Path(state_dict) if isinstance(state_dict, str | os.PathLike) else None
    if out is not None:
        if folder is None:
            raise ValueError(
                "out= needs a checkpoint folder to start from; a moved state dict is returned, not written"
            )
        check_apart(Path(out), folder)
        check_new(Path(out), force)
    check_is_element(g)
    state: Any = state_dict
    model = model if model is None else unwrapped(model)
    accelerated: AcceleratorState | None = None
    stored: Checkpoint | None = None
    state_file = None
    if folder is not None:
        trained, state_file = model, folder / state_file_of(folder)
        if state_file.name == ACCELERATE_FILE:
            accelerated = read_accelerator_state(folder, model)
            model, state = accelerated.model, accelerated.state
        else:
            model, state, stored = open_training_checkpoint(folder)
        if trained is not None:
            checks.copy_requires_grad(model, trained)
    if model is None:
        raise ValueError(
            "a state dict needs model= beside it, which says which axes of which parameter are the stream"
        )
    # 2) check that the state can be moved
    checks.refuse_adapters(model)
    chart = chart_of(model) if stored is None else stored.chart
    check_gauge_fits(chart, g, strict)
    assert isinstance(g, LinearGauge)
    with naming(state_file):
        checks.check_layout(state)
        if not allow_dropout:
            checks.refuse_dropout(model)
        if not allow_half:
            checks.refuse_half(model, state)
        # Trainer always makes two groups; another number means that an optimizer was given to it
        is_trainers = folder is not None and accelerated is None
        trainers = trainer_names(model) if is_trainers and len(state["param_groups"]) == 2 else None
        named = names_by_index(state, model, names, trainers)
        optimizers = optimizers_by_index(state, named, model, optimizer)
        checks.check_states(state, named, model, optimizers)
    if strict:
        checks.check_covariance(g, chart, model, set(optimizers.values()))
    # 3) move it, or a copy where somebody else has it
    moved = _copy(state) if folder is None else state
    with torch.no_grad(), InPlace(g) as act:
        for done, (index, entries) in enumerate(moved["state"].items(), 1):
            for key, tensor in entries.items():
                action = OPTIMIZERS[optimizers[index]].keys[key]
                if isinstance(tensor, Tensor) and action != "none":
                    act.by_kinds(tensor, state_axes(action, chart.axes(named[index]), tensor.dim()))
            if progress is not None:
                progress(done, len(moved["state"]), "optimizer state")
    # 4) write it
    if accelerated is not None and out is not None:
        accelerated.write(Path(out), chart, g, moved, force, progress)
    elif folder is not None and stored is not None and out is not None:
        write = functools.partial(write_moved_weights, stored, g, progress=progress)
        write_folder(folder, Path(out), write, moved, OPTIMIZER_FILE, force)
    elif folder is not None and out is not None:
        moved_model = transport_model(model, g, inplace=True, strict=strict)
        write_checkpoint(folder, Path(out), moved_model, moved, force)
    return moved


def _copy(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that shares nothing.

    Tensors are detached and cloned: those of a differentiable optimizer cannot be deep-copied.
    """
    moved: dict[str, Any] = {"state": {}, "param_groups": copy.deepcopy(state["param_groups"])}
    for index, entries in state["state"].items():
        moved["state"][index] = {
            key: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
            for key, value in entries.items()
        }
    return moved
