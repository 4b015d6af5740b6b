"""Say which token ids and which row lengths a model takes, before it runs on them."""

from __future__ import annotations

from torch import Tensor, nn

from gaugeport.charts.chart import Chart


def position_limit(chart: Chart, model: nn.Module) -> int | None:
    """Return the number of learned or fixed positions of a model: no row may be longer.

    None for rotary positions, which go on beyond ``config.max_position_embeddings``.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    lengths = [tensors[n].shape[chart.axes(n).index("none")] for n in chart.names("position")]
    return min(lengths, default=None)


def check_ids(chart: Chart, model: nn.Module, ids: Tensor) -> None:
    """Raise ``ValueError`` for a token id that is not a row of the model's embedding.

    Padding and labels to ignore are often negative, and a negative index would count from the end.
    """
    vocabulary = len(chart.embedding(model).weight)  # type: ignore[arg-type]
    outside = ids[(ids < 0) | (ids >= vocabulary)]
    if outside.numel():
        raise ValueError(
            f"token id {int(outside[0])} is not in the model's vocabulary, 0 to {vocabulary - 1}"
        )


def check_tokens(chart: Chart, model: nn.Module, ids: Tensor) -> None:
    """Raise ``ValueError`` unless a model takes these token ids.

    Args:
        chart: The chart of the model.
        model: The model.
        ids: int64[batch, length].

    Raises:
        ValueError: If ``ids`` has another number of axes, an id is not a row of the embedding, or the rows
            are longer than the model's positions.
    """
    if ids.dim() != 2:
        raise ValueError(f"expected token ids [batch, length], got a tensor of shape {tuple(ids.shape)}")
    check_ids(chart, model, ids)
    limit = position_limit(chart, model)
    if limit is not None and ids.shape[1] > limit:
        raise ValueError(
            f"rows of {ids.shape[1]} tokens are longer than the model's {limit} positions; "
            f"allowed: rows of at most {limit} tokens"
        )
