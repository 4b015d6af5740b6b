"""Move directions from file to file, in the format they are in."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from gaugeport.groups import Element, Orthogonal
from gaugeport.transport.direction_formats import DirectionFile, read_directions
from gaugeport.transport.directions import linear_part, transport_direction
from gaugeport.transport.folders import check_new_file, naming
from gaugeport.transport.sae_sites import site_of
from gaugeport.utils.files import atomic_file
from gaugeport.utils.tensor_files import existing_file

ADVICE = "; a tensor without coordinates of the stream is kept if invariant= names it"


def transport_direction_file(
    source: str | Path,
    g: Element,
    out: str | Path,
    *,
    axis: int | None = None,
    invariant: Collection[str] = (),
    hook: str | None = None,
    force: bool = False,
) -> list[str]:
    """Write the directions in a file (steering vectors, probes, means) in the coordinates of B.

    Reads ``.safetensors``, ``.npy``, ``.pt``/``.pth`` (a tensor, or dicts and lists of them, such as
    ``layer_activations`` of the steering-vectors library; never Python objects) and ``.gguf`` (a control
    vector of repeng or llama.cpp), and writes the same format, names and dtypes. Every tensor with one axis
    of the gauge's width moves along it, as a direction.

    Args:
        source: The file. It is not changed.
        g: The gauge from A to B, of any group. An :class:`AffineGauge` acts by its linear part.
        out: The new file, named like the source's format, and written atomically.
        axis: The axis that holds the coordinates, for tensors in which several have the gauge's width.
        invariant: Names of tensors that hold no coordinates (a probe's bias); they stay as they are. Nested
            ones are named by their path, ``probe.bias``.
        hook: Where in the model the directions are, if not on the stream: a TransformerLens hook or a
            transformers module. Behind the gain of a norm a rotation is refused.
        force: Replace what lies at ``out``.

    Returns:
        The names of the tensors that moved.

    Raises:
        TypeError: If ``g`` is not a gauge element.
        ValueError: If the file is damaged or of another format than ``out``; if a tensor has no axis of the
            gauge's width, several of them (without ``axis``), or no floats; if a rotation would act behind a
            gain; if ``out`` is the source. Nothing is written then.
        FileNotFoundError: If there is no such file.
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    width = linear_part(g).size
    source, out = Path(source), Path(out)
    check_new_file(existing_file(source), out, source.suffix, force)
    with naming(source):
        file = read_directions(source)
        check_direction_site(hook or file.layer_type, g)
        axes = _axes(file, width, axis, invariant)
        moved = {
            name: transport_direction(t, g, axes[name]) if name in axes else t
            for name, t in file.tensors.items()
        }
    with atomic_file(out) as temporary:
        file.write(moved, temporary)
    return list(axes)


def check_direction_site(where: str | None, g: Element) -> None:
    """Check that a gauge acts on directions at a site.

    Args:
        where: The name of a hook or module, or a ``layer_type`` of the steering-vectors library; None for the
            stream.
        g: The gauge.

    Raises:
        ValueError: If the site is not on the stream, or if a rotation would act behind the gain of a norm.
    """
    if where is None or where == "decoder_block":
        return
    site = site_of(where) or site_of(f"model.layers.0.{where}")
    if site is None or site == "off":
        raise ValueError(
            f"{where!r} is not a site on the residual stream; allowed: a TransformerLens hook or a module of "
            "transformers on it. (Directions of heads and neurons are the same whatever the coordinates.)"
        )
    if site == "gain" and isinstance(linear_part(g), Orthogonal):
        raise ValueError(
            f"{where!r} is behind the gain of a norm, where a rotation ({g.group!r}) does not act as on the "
            "stream. Fold the gain first, by fold_gains(model): what is added there is divided by the gain, "
            "a probe of it multiplied; or use a signed permutation"
        )


def _axes(file: DirectionFile, width: int, axis: int | None, invariant: Collection[str]) -> dict[str, int]:
    """Return the axis of each tensor that moves."""
    unknown = sorted(set(invariant) - set(file.tensors))
    if unknown:
        raise ValueError(f"invariant names {', '.join(unknown)}; the file holds {', '.join(file.tensors)}")
    axes: dict[str, int] = {}
    for name, t in file.tensors.items():
        if name in invariant:
            continue
        described = f"{name} ({t.dtype} of shape {tuple(t.shape)})"
        if not t.is_floating_point() or t.element_size() < 2 or t.is_meta or t.layout != torch.strided:
            raise ValueError(
                f"{described} cannot move as a direction: expected plain floats of 16 bits or more{ADVICE}"
            )
        fitting = [i for i, n in enumerate(t.shape) if n == width]
        if axis is not None:
            fitting = [i for i in fitting if i == axis % t.dim()] if -t.dim() <= axis < t.dim() else []
        if not fitting:
            where = "no axis" if axis is None else f"no axis {axis}"
            raise ValueError(f"{described} has {where} of the gauge's width {width}{ADVICE}")
        if len(fitting) > 1:
            raise ValueError(
                f"axes {fitting} of {described} have the gauge's width {width}; say which holds the "
                "coordinates, axis="
            )
        axes[name] = fitting[0]
    if not axes:
        raise ValueError("expected at least one direction to move, got none")
    return axes
