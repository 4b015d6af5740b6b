"""Find the modules that a chart names in a model of unknown architecture, and watch how the stream passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gaugeport.charts.draft_axes import module_axes
from gaugeport.groups import SignedPermutation

SHIFTED = 3.0
"""A LayerNorm subtracts the mean, so that this added to every coordinate does not change its output."""

CLOSE = 1e-3
"""Two outputs are the same within this share of their standard deviation: rounding is about 1e-6 of it."""


@dataclass(frozen=True)
class Modules:
    """The names of the modules that a chart names, and the kind of norm."""

    embedding: str
    blocks: str
    final_norm: str
    unembedding: str
    norm: Literal["rms", "layer"]


@dataclass(frozen=True)
class Seen:
    """What a forward pass shows of the first block.

    Attributes:
        stream: float32[batch, time, d], what the block reads.
        call: The other arguments of its call: positional ones after the stream, and by name.
        norm_of: Module -> the norm that it reads, with ``*`` in place of the block number.
        post_norm: Whether a norm of the stream reads what another module wrote.
    """

    stream: Tensor
    call: tuple[tuple[Any, ...], Mapping[str, Any]]
    norm_of: Mapping[str, str]
    post_norm: bool


def find_modules(model: nn.Module) -> Modules:
    """Find the embedding, blocks, final norm and unembedding.

    The embedding and unembedding are what transformers says they are, the blocks the list of as many modules
    as the config has layers, the final norm the last norm outside of them.

    Raises:
        ValueError: One of them cannot be found.
    """
    config: Any = model.config
    names = {module: name for name, module in model.named_modules()}
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    if unembedding is None:
        raise ValueError(f"{type(model).__name__} has no unembedding; expected a causal language model")
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    if not lists:
        raise ValueError(f"no list of {config.num_hidden_layers} blocks in {type(model).__name__}")
    identity = SignedPermutation.identity(int(config.hidden_size))
    norms = [
        name
        for name, module in model.named_modules()
        if not name.startswith(f"{lists[0]}.")
        and not list(module.children())
        and module_axes(module, identity)
    ]
    if not norms:
        raise ValueError(f"no norm of {config.hidden_size} coordinates after {lists[0]}")
    final = model.get_submodule(norms[-1])
    return Modules(names[embedding], lists[0], norms[-1], names[unembedding], _kind(final, identity.size))


def watch(model: nn.Module, modules: Modules, tokens: Tensor, g: SignedPermutation) -> Seen:
    """Run the model once, and record what the first block and its modules read and write.

    Args:
        model: The model.
        modules: Its modules.
        tokens: int64[batch, time].
        g: An element of the group, to tell norms of the stream by.
    """
    first = f"{modules.blocks}.0"
    call: dict[str, Any] = {}
    read: dict[str, Tensor] = {}
    written: dict[str, Tensor] = {}

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call.setdefault("args", args)
        call.setdefault("kwargs", kwargs)

    def passing(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                read[name], written[name] = args[0], output

        return hook

    watched = [
        (name, module)
        for name, module in model.named_modules()
        if not list(module.children())
        and (name.startswith(f"{first}.") or name in (modules.final_norm, modules.unembedding))
    ]
    handles = [module.register_forward_hook(passing(name)) for name, module in watched]
    handles.append(model.get_submodule(first).register_forward_pre_hook(entering, with_kwargs=True))
    try:
        model(tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    args, kwargs = call["args"], dict(call["kwargs"])
    stream = args[0] if args else kwargs.pop("hidden_states")
    norms = [name for name, module in watched if name in read and module_axes(module, g) is not None]
    norm_of = {
        _star(name, modules): _star(norm, modules)
        for name in read
        for norm in norms
        if name != norm and _same(read[name], written[norm])
    }
    writers = [name for name in written if name not in norms]
    post_norm = any(_same(read[norm], written[name]) for norm in norms for name in writers)
    return Seen(stream.float(), (tuple(args[1:]), kwargs), norm_of, post_norm)


def gain_offset(norm: nn.Module, width: int) -> float:
    """Return what an RMSNorm adds to its weight before it multiplies: 0, or 1 as in Gemma."""
    weight: Any = norm.weight
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gain = norm.float()(x)[0] / (x[0] / x[0].square().mean().sqrt())
    return float((gain - weight.float()).median().round())


def _kind(norm: nn.Module, width: int) -> Literal["rms", "layer"]:
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(next(norm.parameters()).dtype)
    with torch.no_grad():
        plain, shifted = norm(x), norm(x + SHIFTED)
    return "layer" if float((plain - shifted).abs().max()) < CLOSE * float(plain.std()) else "rms"


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _star(name: str, modules: Modules) -> str:
    return name.replace(f"{modules.blocks}.0.", f"{modules.blocks}.*.")
