"""An SVD where torch's gives up, which depends on the processor: here torch's is made to."""

import pytest
import torch

from gaugeport.utils.linalg import svd


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (2, 3, 4, 4)])
@pytest.mark.parametrize("full_matrices", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gesvd_decomposes_where_torch_s_svd_does_not_converge(shape, full_matrices, dtype, monkeypatch):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected, called = torch.linalg.svd(x, full_matrices=full_matrices), []

    def gives_up(*args, **options):
        called.append(args)
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", gives_up)
    u, s, vh = svd(x, full_matrices)
    assert called
    for found, wanted in zip((u, s, vh), expected, strict=True):
        assert found.shape == wanted.shape and found.dtype == dtype
    k = s.shape[-1]
    rounding = 100 * torch.finfo(dtype).eps
    assert torch.allclose((u[..., :k] * s[..., None, :]) @ vh[..., :k, :], x, rtol=0, atol=rounding)
    assert torch.allclose(s, expected[1], rtol=rounding)
    for rows in (u.mT, vh):
        assert torch.allclose(rows @ rows.mT, torch.eye(rows.shape[-2], dtype=dtype), rtol=0, atol=rounding)


def test_matrix_that_is_not_finite_has_no_decomposition():
    with pytest.raises(torch.linalg.LinAlgError):
        svd(torch.full((3, 3), float("nan")))
