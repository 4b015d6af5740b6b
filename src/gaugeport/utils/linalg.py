"""Decompose matrices on which LAPACK's fastest routine gives up."""

from __future__ import annotations

import torch
from scipy import linalg
from torch import Tensor


def svd(matrix: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular value decomposition of one matrix, or of each of several.

    ``torch.linalg.svd`` calls gesdd, and MKL's does not converge on some well-posed matrices of moments,
    whose small singular values lie close together. For those the slower gesvd is called.

    Args:
        matrix: float[..., m, n].
        full_matrices: As in ``torch.linalg.svd``.

    Returns:
        U, S and Vᴴ, of the dtype and device of ``matrix``.

    Raises:
        torch.linalg.LinAlgError: A value is NaN or infinite.
    """
    try:
        return torch.linalg.svd(matrix, full_matrices=full_matrices)
    except torch.linalg.LinAlgError:
        if not matrix.isfinite().all():
            raise
    if matrix.dim() > 2:
        u, s, vh = map(torch.stack, zip(*(svd(m, full_matrices) for m in matrix), strict=True))
    else:
        parts = linalg.svd(matrix.detach().cpu().numpy(), full_matrices, lapack_driver="gesvd")
        u, s, vh = (torch.from_numpy(part).to(matrix) for part in parts)
    return u, s, vh
