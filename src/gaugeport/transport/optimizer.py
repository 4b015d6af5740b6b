"""``transport_optimizer``: carry what an optimizer has accumulated to another residual basis, or say why it cannot go."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import chart_of
from gaugeport.groups import Element, SignedPermutation, check_is_element
from gaugeport.transport import optimizer_checks as checks
from gaugeport.transport.axis import InPlace
from gaugeport.transport.model import check_gauge_fits, transport_model
from gaugeport.transport.optimizer_files import read_checkpoint, trainer_names, write_checkpoint
from gaugeport.transport.optimizer_rules import OPTIMIZERS, state_axes
from gaugeport.utils.files import check_new


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
) -> dict[str, Any]:
    """The optimizer state in the coordinates of ``transport_model(model, g)``: a new dict, the given one is untouched.

    ``state_dict`` is a ``torch.optim`` state dict, or a checkpoint folder of ``transformers.Trainer``. ``model`` is the
    model *before* it is moved; with a folder it is read from there, and a model given as well says which parameters
    were trained (its ``requires_grad``). With a folder, ``out`` names a new folder for the moved weights and state,
    from which ``Trainer.train(resume_from_checkpoint=out)`` goes on.

    Which parameter is which: ``names`` in the optimizer's order; else the ``param_names`` in the state; else Trainer's
    order for a folder (two param_groups), and ``model.named_parameters()`` for a state with one group. Shapes are checked, but
    parameters of one shape in another order cannot be told apart without names. ``optimizer`` names a rule of
    ``OPTIMIZERS`` where the state does not tell.

    A resumed run stays in step with the reference run where the *update* is covariant too: Adam, AdamW, Lion and
    Adafactor under signed permutations, SGD and Muon also under rotations of a folded chart whose gains are frozen
    (reasons in ``OPTIMIZERS``). It needs dropout 0. Clipping by the global norm is covariant under all of these;
    clipping by value under signed permutations only, which no state shows. ``strict=False`` moves under any element of
    the right width, for negative controls; a rotation then leaves gains and second moments as they are.

    Raises ``ValueError``, before anything is written, for an element outside the chart's group or the optimizer's, an
    unknown or ambiguous optimizer, states that do not fit the named parameters (missing, reordered, of other shapes),
    8-bit, sharded or flattened states, adapters, dropout (unless ``allow_dropout``) and 16-bit parameters or states
    (unless ``allow_half``: they move exactly, but a run resumed in 16 bits rounds its sums as their order has it, and
    only sign changes are sure to stay in step); ``FileNotFoundError`` and ``FileExistsError`` for folders; ``TypeError`` for
    what is no gauge element. Source: DESIGN §1.
    """
    folder = Path(state_dict) if isinstance(state_dict, str | os.PathLike) else None
    if out is not None:
        if folder is None:
            raise ValueError(
                "out= wants a checkpoint folder to start from; a state dict is returned, not written"
            )
        check_new(Path(out))
    check_is_element(g)
    state: Any = state_dict
    if folder is not None:
        trained = model
        model, state = read_checkpoint(folder)
        if trained is not None:
            checks.take_flags(model, trained)
    if model is None:
        raise ValueError(
            "model= is wanted beside a state dict: it says which axes of which parameter are the stream"
        )
    checks.refuse_adapters(model)
    chart = chart_of(model)
    check_gauge_fits(chart, g, strict)
    checks.check_plain(state)
    if not allow_dropout:
        checks.refuse_dropout(model)
    if not allow_half:
        checks.refuse_half(model, state)
    # Trainer always makes two groups; another number is an optimizer that was given to it
    trainers = trainer_names(model) if folder is not None and len(state["param_groups"]) == 2 else None
    named = checks.names_by_index(state, model, names, trainers)
    rules = checks.rules_by_index(state, named, model, optimizer)
    checks.check_states(state, named, model, rules)
    if strict:
        checks.check_covariance(g, chart, model, set(rules.values()))
    moved = _copy(state)
    with torch.no_grad(), InPlace(g) as act:  # type: ignore[arg-type]  # check_gauge_fits: linear
        for index, entries in moved["state"].items():
            for key, tensor in entries.items():
                action = OPTIMIZERS[rules[index]].keys[key]
                if not isinstance(tensor, Tensor) or action == "none":
                    continue
                for axis, kind in enumerate(state_axes(action, chart.axes(named[index]), tensor.dim())):
                    if kind == "vector":
                        act.vector(tensor, axis)
                    elif kind == "gain" and isinstance(g, SignedPermutation):
                        act.gain(tensor, axis)
    if folder is not None and out is not None:
        write_checkpoint(folder, Path(out), transport_model(model, g, inplace=True, strict=strict), moved)
    return moved


def _copy(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that shares nothing; tensors are detached, since those of a differentiable optimizer refuse deepcopy."""
    entries = {
        index: {k: v.detach().clone() if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in held.items()}
        for index, held in state["state"].items()
    }
    return {"state": entries, "param_groups": copy.deepcopy(state["param_groups"])}
