"""Compare two models up to any residual rotation, without finding one (not in the papers).

Paper B, section 9.5, asks for a bar that leaves the rotation free. Stack everything of a folded model that
reads or writes the stream as rows: embedding, positions, unembeddings, queries, keys, values and ups as they
are, outs and downs transposed. A residual rotation multiplies every row by the same matrix, so it leaves the
products ``T_i T_jᵀ`` of any two tensors alone; and two models whose products are all equal differ by such a
rotation. The products are thus a complete invariant of the residual gauge: this bar is 0 exactly when Bar P
is 0 for some rotation.

Heads and neurons are *not* taken out, because they act on the rows of a product: reordered heads, rotations
inside them, reordered and scaled neurons. A fitted symmetry brings those of the model to the reference's; its
residual part has no influence.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import nn

from gaugeport.pipeline.rotation.matching.search import comparable_rows
from gaugeport.pipeline.rotation.matching.symmetry import Rows, Symmetry, check_dyck
from gaugeport.utils.linalg import svd


@dataclass(frozen=True)
class Quotient:
    """Mean squared differences per entry of the products of two models, by the names of the two tensors.

    Attributes:
        per_pair: The difference of each pair of tensors.
        relative: The same over the mean square of the reference's product, where that is not 0.
        pair: The pair with the largest difference.
        max_mse: The difference of ``pair``.
        global_mse: The mean over all entries of all pairs, each pair counted once.
        symmetry: The element that aligned heads and neurons.
    """

    per_pair: dict[tuple[str, str], float]
    relative: dict[tuple[str, str], float]
    pair: tuple[str, str]
    max_mse: float
    global_mse: float
    symmetry: Symmetry


def quotient_bar(model: nn.Module, reference: nn.Module, symmetry: Symmetry | None = None) -> Quotient:
    """Compare two folded Dyck-3 models up to any residual rotation.

    Args:
        model: A folded Dyck-3 model.
        reference: Another one of the same size.
        symmetry: Aligns the model's heads and neurons, for example that of a
            :class:`~gaugeport.pipeline.rotation.matching.search.SymmetryFit`; its residual part is not used.
            None leaves heads and neurons as they are.

    Raises:
        ValueError: The models cannot be compared, or their gains are in place: gains pin the coordinates,
            which no product shows.
    """
    rows, target = _folded_rows(model, reference)
    symmetry = symmetry or Symmetry.identity(model)
    mine, theirs = _flat(symmetry.move_heads_and_neurons(rows)), _flat(target)
    per_pair, relative, products = {}, {}, {}
    for i, j in combinations_with_replacement(theirs, 2):
        products[i, j] = theirs[i] @ theirs[j].T
        square = float(products[i, j].square().mean())
        per_pair[i, j] = float((mine[i] @ mine[j].T - products[i, j]).square().mean())
        if square > 0:
            relative[i, j] = per_pair[i, j] / square
    pair = max(per_pair, key=lambda p: per_pair[p])
    entries = {p: product.numel() for p, product in products.items()}
    pooled = sum(mse * entries[p] for p, mse in per_pair.items()) / sum(entries.values())
    return Quotient(per_pair, relative, pair, per_pair[pair], pooled, symmetry)


def floors(model: nn.Module, reference: nn.Module) -> dict[str, float]:
    """Return the least mean squared difference that *any* residual rotation can leave in each tensor.

    This is a proof, not a search: no element of the group has a ``max_mse`` below the largest of these
    values. Embedding, positions and unembeddings move with the residual element only, so their floor is that
    of their own Procrustes problem. Heads are moved by orthogonal matrices on both sides: their floor follows
    from the singular values alone (Mirsky 1960), where every orthogonal matrix over all heads counts as
    allowed. The MLP is left out, because scalings leave it no simple floor.

    Args:
        model: A folded Dyck-3 model.
        reference: Another one of the same size.

    Raises:
        ValueError: The models cannot be compared, or their gains are in place.
    """
    rows, target = _folded_rows(model, reference)
    mine, theirs = _flat(rows), _flat(target)
    least = {}
    for name in theirs:
        a, b = mine[name], theirs[name]
        if "self_attn" in name:
            difference = torch.linalg.svdvals(a) - torch.linalg.svdvals(b)
            least[name] = float(difference.square().sum()) / a.numel()
        elif "mlp" not in name:
            u, _, vh = svd(b.T @ a)
            least[name] = float((a @ (u @ vh).T - b).square().mean())
    return least


def _folded_rows(model: nn.Module, reference: nn.Module) -> tuple[Rows, Rows]:
    rows = comparable_rows(model, reference)
    if not check_dyck(model).folded:
        raise ValueError("a rotation is no symmetry while gains are in place; call fold_gains(model) first")
    return rows


def _flat(rows: Rows) -> Rows:
    return {name: t.flatten(0, -2) for name, t in rows.items()}
