"""Compute the loss of a Dyck-3 model and its gradient in one pass, by hand: a step of training on a CPU.

The model is so small that autograd spends most of a step on everything but matrix products. Here a batch is
taken in groups of strings of similar length, each forward and straight back, so that what a group keeps stays
in the CPU's cache. The gains of norms are folded into the maps that read them, and maps that read the same
stream are one product. Within a group the tokens of all strings lie below each other: a stream is
float[strings · length, width].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GROUP_TOKENS = 768
"""Tokens of a group, padding included. More leave the cache, and fewer are not worth their calls: of 512 to
1,536 this is the fastest, whether the machine's other core is free or not."""

EMBEDDING, FINAL_NORM = "model.embed_tokens", "model.norm"
UNEMBEDDINGS = ("lm_head", "depth_head", "valid_head")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")

Weights = dict[str, Tensor]
"""One matrix for each norm, the maps that read it below each other and its gain folded in, by the norm's
name; and the matrices of all other maps by their own names."""


class Sizes(NamedTuple):
    """The sizes that the weights do not tell.

    Attributes:
        layers: Number of layers.
        heads: Attention heads of a layer.
        eps: What a norm adds to the mean square.
        classes: Number of logits of each of :data:`UNEMBEDDINGS`.
    """

    layers: int
    heads: int
    eps: float
    classes: tuple[int, ...]


def mean_loss(
    parameters: Mapping[str, Tensor], position: Tensor, ids: Tensor, labels: Tensor, sizes: Sizes
) -> Tensor:
    """Return the mean cross-entropy over output heads and labelled positions, in nats.

    Its gradient is computed with it; ``backward`` only hands it out.

    Args:
        parameters: The model's parameters by name.
        position: The features of every position, float[at least t, d].
        ids: int64[b, t], padded on the right.
        labels: int64[b, t, 3], negative on padding.
        sizes: The model's other sizes.
    """
    return _MeanLoss.apply(position, ids, labels, sizes, tuple(parameters), *parameters.values())


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, position: Tensor, ids: Tensor, labels: Tensor, sizes: Sizes, *named: Any) -> Tensor:
        parameters = dict(zip(named[0], named[1:], strict=True))
        weights = _fold(parameters, sizes.layers)
        gradient = {name: torch.zeros_like(w) for name, w in weights.items()}
        lengths = (labels[..., 0] >= 0).sum(1)
        count = max(1, int(lengths.sum()) * len(sizes.classes))
        loss = position.new_zeros(())
        for rows, longest in groups(lengths):
            group = _Group(weights, gradient, sizes, longest)
            loss += group.loss(ids[rows, :longest], labels[rows, :longest], position, count)
        unfolded = _unfold(gradient, parameters, sizes.layers)
        ctx.gradient = [unfolded[name] for name in parameters]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        trained = ctx.needs_input_grad[-len(ctx.gradient) :]
        gradient = (scale * g if needed else None for g, needed in zip(ctx.gradient, trained, strict=True))
        return (None, None, None, None, None, *gradient)


def groups(lengths: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Yield groups of rows of similar length, the longest first, and the length of each group's longest."""
    rows = lengths.argsort(descending=True, stable=True)[: int((lengths > 0).sum())]
    while len(rows):
        longest = int(lengths[rows[0]])
        n = max(1, GROUP_TOKENS // longest)
        yield rows[:n], longest
        rows = rows[n:]


def _layer(n: int) -> str:
    return f"model.layers.{n}"


def _readers(layers: int) -> dict[str, tuple[str, ...]]:
    """Return the maps that read each norm."""
    readers: dict[str, tuple[str, ...]] = {FINAL_NORM: UNEMBEDDINGS}
    for layer in map(_layer, range(layers)):
        readers[f"{layer}.input_layernorm"] = tuple(f"{layer}.self_attn.{p}" for p in PROJECTIONS)
        readers[f"{layer}.post_attention_layernorm"] = (f"{layer}.mlp.up_proj",)
    return readers


def _stacked(parameters: Mapping[str, Tensor], maps: Sequence[str]) -> Tensor:
    return torch.cat([parameters[f"{name}.weight"] for name in maps])


def _fold(parameters: Mapping[str, Tensor], layers: int) -> Weights:
    """Fold the gain of every norm into the maps that read it."""
    readers = _readers(layers)
    writers = [f"{_layer(n)}.{w}" for n in range(layers) for w in ("self_attn.o_proj", "mlp.down_proj")]
    folded = {
        norm: _stacked(parameters, maps) * parameters[f"{norm}.weight"] for norm, maps in readers.items()
    }
    return folded | {name: parameters[f"{name}.weight"] for name in (EMBEDDING, *writers)}


def _unfold(gradient: Weights, parameters: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return the gradient of every parameter, given that of the folded weights."""
    readers = _readers(layers)
    unfolded = {f"{name}.weight": g for name, g in gradient.items() if name not in readers}
    for norm, maps in readers.items():
        unfolded[f"{norm}.weight"] = (gradient[norm] * _stacked(parameters, maps)).sum(0)
        of_maps = gradient[norm] * parameters[f"{norm}.weight"]
        outputs = [len(parameters[f"{name}.weight"]) for name in maps]
        for name, part in zip(maps, of_maps.split(outputs), strict=True):
            unfolded[f"{name}.weight"] = part
    return unfolded


class _Normed(NamedTuple):
    """A stream over its root mean square, and 1 over that root."""

    stream: Tensor
    scale: Tensor


class _Attended(NamedTuple):
    """What the way back through attention needs: by head and string, but for ``z`` [tokens, width]."""

    normed: _Normed
    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Tensor
    z: Tensor


class _Group:
    """Strings of up to ``longest`` tokens, forward and back; their gradient is added to ``gradient``."""

    def __init__(self, weights: Weights, gradient: Weights, sizes: Sizes, longest: int):
        self.weights, self.gradient, self.sizes, self.longest = weights, gradient, sizes, longest
        embedding = weights[EMBEDDING]
        self.head_width = embedding.shape[1] // sizes.heads
        self.mask = embedding.new_full((longest, longest), -math.inf).triu(1)

    def loss(self, ids: Tensor, labels: Tensor, position: Tensor, count: int) -> Tensor:
        """Return the group's share of the mean loss over ``count`` labels, and add its gradient."""
        layers = [_layer(n) for n in range(self.sizes.layers)]
        # 1) forward, keeping what the way back needs
        x = self.weights[EMBEDDING][ids].add_(position[: self.longest]).flatten(0, 1)
        kept = []
        for layer in layers:
            x, attended = self._attention(layer, x)
            x, normed, hidden = self._mlp(layer, x)
            kept.append((attended, normed, hidden))
        normed = self._normed(x)
        logits = normed.stream @ self.weights[FINAL_NORM].T
        # 2) the loss, and its gradient with respect to the logits
        loss, d_logits = _cross_entropies(logits, labels.flatten(0, 1), self.sizes.classes)
        # 3) back
        dx = self._back_through_readers(FINAL_NORM, d_logits.mul_(1 / count), normed)
        for layer, (attended, normed, hidden) in zip(reversed(layers), reversed(kept), strict=True):
            dx = self._mlp_back(layer, dx, normed, hidden)
            dx = self._attention_back(layer, dx, attended)
        self.gradient[EMBEDDING].index_add_(0, ids.flatten(), dx)
        return loss / count

    def _normed(self, x: Tensor) -> _Normed:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(self.sizes.eps).rsqrt_()
        return _Normed(x * scale, scale)

    def _back_through_readers(self, norm: str, dy: Tensor, normed: _Normed) -> Tensor:
        """Go back through the maps that read a norm, and through the norm."""
        self.gradient[norm].addmm_(dy.T, normed.stream)
        dx = dy @ self.weights[norm]
        along = (dx * normed.stream).sum(-1, keepdim=True).div_(dx.shape[-1])
        return dx.addcmul_(normed.stream, along, value=-1).mul_(normed.scale)

    def _back_through_writer(self, name: str, dx: Tensor, written: Tensor) -> Tensor:
        self.gradient[name].addmm_(dx.T, written)
        return dx @ self.weights[name]

    def _mlp(self, layer: str, x: Tensor) -> tuple[Tensor, _Normed, Tensor]:
        normed = self._normed(x)
        hidden = (normed.stream @ self.weights[f"{layer}.post_attention_layernorm"].T).relu_()
        return torch.addmm(x, hidden, self.weights[f"{layer}.mlp.down_proj"].T), normed, hidden

    def _mlp_back(self, layer: str, dx: Tensor, normed: _Normed, hidden: Tensor) -> Tensor:
        d_hidden = self._back_through_writer(f"{layer}.mlp.down_proj", dx, hidden)
        # what autograd calls for a ReLU, in place: a mask takes several times as long
        torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden)
        return self._back_through_readers(f"{layer}.post_attention_layernorm", d_hidden, normed).add_(dx)

    def _attention(self, layer: str, x: Tensor) -> tuple[Tensor, _Attended]:
        # heads are 16 wide: these products are faster than PyTorch's fused attention
        normed = self._normed(x)
        q, k, v = self._by_head(normed.stream @ self.weights[f"{layer}.input_layernorm"].T)
        scores = torch.baddbmm(self.mask, q, k.transpose(1, 2), alpha=self.head_width**-0.5)
        pattern = scores.softmax(-1)
        z = self._by_token((pattern @ v)[None])
        written = torch.addmm(x, z, self.weights[f"{layer}.self_attn.o_proj"].T)
        return written, _Attended(normed, q, k, v, pattern, z)

    def _attention_back(self, layer: str, dx: Tensor, kept: _Attended) -> Tensor:
        (dz,) = self._by_head(self._back_through_writer(f"{layer}.self_attn.o_proj", dx, kept.z))
        d_pattern = dz @ kept.v.transpose(1, 2)
        d_scores = torch._softmax_backward_data(d_pattern, kept.pattern, -1, d_pattern.dtype)
        d_scores.mul_(self.head_width**-0.5)
        dq, dk, dv = d_qkv = dz.new_empty(3, *dz.shape)
        torch.bmm(d_scores, kept.k, out=dq)
        torch.bmm(d_scores.transpose(1, 2), kept.q, out=dk)
        torch.bmm(kept.pattern.transpose(1, 2), dz, out=dv)
        return self._back_through_readers(
            f"{layer}.input_layernorm", self._by_token(d_qkv), kept.normed
        ).add_(dx)

    def _by_head(self, x: Tensor) -> Tensor:
        """Lay out [tokens, parts · width] as [parts, strings · heads, length, head's width]."""
        by_string = x.view(
            -1,
            self.longest,
            x.shape[1] // self.weights[EMBEDDING].shape[1],
            self.sizes.heads,
            self.head_width,
        )
        return by_string.permute(2, 0, 3, 1, 4).flatten(1, 2)

    def _by_token(self, x: Tensor) -> Tensor:
        """Lay out [parts, strings · heads, length, head's width] as [tokens, parts · width]."""
        by_string = x.unflatten(1, (-1, self.sizes.heads))
        return by_string.permute(1, 3, 0, 2, 4).flatten(2, 4).flatten(0, 1)


def _cross_entropies(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the sum of all heads' cross-entropies, and its gradient with respect to the logits.

    Args:
        logits: float[n, all classes], the heads side by side.
        labels: int64[n, heads], negative on padding.
        classes: Number of classes of each head.
    """
    log_p = torch.cat([z.log_softmax(-1) for z in logits.split(list(classes), -1)], -1)
    labelled = labels[:, :1] >= 0
    first = torch.tensor([0, *classes]).cumsum(0)[:-1]
    target = labels.clamp(min=0) + first
    loss = -(log_p.gather(1, target) * labelled).sum()
    gradient = log_p.exp_().scatter_add_(1, target, log_p.new_full(target.shape, -1.0))
    return loss, gradient.mul_(labelled)
