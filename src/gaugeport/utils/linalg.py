"""Decompose matrices on which LAPACK's fastest routine gives up."""

from __future__ import annotations

import torch
from scipy import linalg
from torch import Tensor


def svd(matrix: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S and Vᴴ of matrices ``[..., m, n]``.

    ``torch.linalg.svd`` calls gesdd, and MKL's does not converge on some well-posed matrices of moments,
    whose small singular values lie close together. For those the slower gesvd is called.

    Raises:
        torch.linalg.LinAlgError: A value is NaN or infinite.
    """
    try:
        return torch.linalg.svd(matrix, full_matrices=full_matrices)
    except torch.linalg.LinAlgError:
        if not matrix.isfinite().all():
            raise
    matrices = matrix.detach().cpu().flatten(0, -3) if matrix.dim() > 2 else matrix.detach().cpu()[None]
    parts = zip(*(linalg.svd(m.numpy(), full_matrices, lapack_driver="gesvd") for m in matrices), strict=True)
    u, s, vh = (torch.stack([torch.from_numpy(x) for x in part]).to(matrix) for part in parts)
    batch = matrix.shape[:-2]
    return (
        u.reshape(*batch, *u.shape[1:]),
        s.reshape(*batch, *s.shape[1:]),
        vh.reshape(*batch, *vh.shape[1:]),
    )
