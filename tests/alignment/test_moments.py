"""Streaming moments agree with a float64 two-pass computation over the same rows."""

import pytest
import torch

from gaugeport.alignment import moments as module
from gaugeport.alignment.moments import Moments, MomentStream

MAX_ERROR = 1e-6  # of a correlation, against the float64 two-pass computation
D = 48


def two_pass(a, b):
    """Return the correlation of each coordinate of B with each of A, by the textbook formula in float64."""
    x, y = (t.double() - t.double().mean(0) for t in (a, b))
    return (y / y.norm(dim=0)).T @ (x / x.norm(dim=0))


def pair(n, seed=0, d=D):
    """Return rows of A and noisy mixtures of them as B, so that C has large entries of both signs."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g)
    b = a @ (torch.eye(d) + 0.3 * torch.randn(d, d, generator=g)) + torch.randn(n, d, generator=g)
    return a, b


def massive(n, seed=0, ratio=3.0):
    """Return rows whose means are up to ``ratio`` standard deviations.

    Two coordinates have means of ±1000, and two have spikes of ±2000.
    """
    sides = []
    for k, x in enumerate(pair(n, seed)):
        x = x / x.std(0) + ratio * torch.linspace(-1, 1, D)
        x[:, 3 + k] += 1000
        x[:, 7] -= 1000
        x[::512, 11 + k] += 2000
        x[::512, 20] -= 2000
        sides.append(x)
    return tuple(sides)


def stream(a, b, chunk=1024, **names):
    s = MomentStream(**names)
    for x, y in zip(a.split(chunk), b.split(chunk), strict=True):
        s.update(x, y)
    return s


def error(s, a, b):
    """Return the largest error of the stream's correlations over all its rows ``a`` and ``b``."""
    return float((s.result().correlation() - two_pass(a, b)).abs().max())


def test_rows_are_b_and_columns_are_a():
    a, b = torch.randn(200, 3), torch.randn(200, 5)
    b[:, 4] = -a[:, 1] * 2 + 7
    c = stream(a, b, 50).result().correlation()
    assert c.shape == (5, 3) and c.dtype == torch.float64
    assert abs(float(c[4, 1]) + 1) < MAX_ERROR and int(c[4].abs().argmax()) == 1


@pytest.mark.parametrize("ratio", [3.0, 300.0])
def test_massive_coordinates_keep_precision(ratio):
    a, b = massive(40_000, ratio=ratio)
    s = stream(a, b)
    assert error(s, a, b) <= MAX_ERROR
    x = a.double()
    result = s.result()
    assert result.n == 40_000
    assert torch.allclose(result.mean_a, x.mean(0), rtol=1e-6, atol=1e-6)
    assert torch.allclose(result.square_a / result.n, x.var(0, correction=0), rtol=1e-5)
    naive = (b.T @ a) / len(a) - b.mean(0)[:, None] * a.mean(0)  # negative control: raw float32 moments
    naive = naive / b.var(0, correction=0).sqrt()[:, None] / a.var(0, correction=0).sqrt()
    assert float((naive - two_pass(a, b)).abs().max()) > 1e-3


@pytest.mark.parametrize("offset", [1.0, 3.0, 5.0, 9.0, 30.0, 1000.0])
@pytest.mark.parametrize("flat", [False, True])
def test_first_chunk_may_differ_from_the_rest(offset, flat):
    """The shift is the first chunk's mean, which is ``offset`` standard deviations off for all other rows."""
    a, b = massive(30_000, seed=1)
    for x in (a, b):
        x[:512] += offset * x[512:].std(0) * torch.where(torch.arange(D) % 3 > 0, 1.0, -1.0)
        if flat:
            x[:512, ::2] = x[0, ::2] + 1e-3 * (x[:512, ::2] - x[0, ::2])
    assert error(stream(a, b, 512), a, b) <= MAX_ERROR


def test_slow_drift_keeps_precision():
    a, b = massive(30_000, seed=2)
    for x in (a, b):
        x += torch.linspace(0, 400, len(x))[:, None]
    assert error(stream(a, b, 256), a, b) <= MAX_ERROR


def test_chunk_size_does_not_matter():
    a, b = massive(5000, seed=3)
    whole = stream(a, b, 5000).result()
    for chunk in (1, 7, 640):
        other = stream(a, b, chunk).result()
        assert other.n == whole.n
        assert float((other.correlation() - whole.correlation()).abs().max()) <= 2 * MAX_ERROR


def test_flushing_does_not_change_the_result(monkeypatch):
    a, b = pair(4000)
    late = stream(a, b, 500).result().correlation()
    monkeypatch.setattr(module, "FLUSH_ROWS", 1000)
    assert float((stream(a, b, 500).result().correlation() - late).abs().max()) <= MAX_ERROR


def test_result_is_available_midway():
    a, b = pair(2000)
    s = stream(a[:700], b[:700], 100)
    assert error(s, a[:700], b[:700]) <= MAX_ERROR
    for x, y in zip(a[700:].split(100), b[700:].split(100), strict=True):
        s.update(x, y)
    assert error(s, a, b) <= MAX_ERROR


def test_merging_equals_one_stream_over_both_samples():
    a, b = massive(6000, seed=4)
    parts = [stream(a[s], b[s]).result() for s in (slice(0, 1000), slice(1000, 1001), slice(1001, None))]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.n == 6000
    assert float((merged.correlation() - two_pass(a, b)).abs().max()) <= MAX_ERROR
    assert torch.allclose(
        merged.cross / merged.n, stream(a, b).result().cross / merged.n, rtol=1e-5, atol=1e-5
    )
    assert torch.allclose(parts[0].merge(parts[2]).cross, parts[2].merge(parts[0]).cross)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_keep_precision(dtype):
    a, b = (x.to(dtype) for x in massive(3000, seed=5))
    assert error(stream(a, b, 300), a, b) <= MAX_ERROR
    assert a.dtype == dtype


def test_rows_are_not_modified():
    a, b = pair(300)
    before = a.clone(), b.clone()
    stream(a.requires_grad_(), b, 100)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def constant_coordinates(n=3000):
    a, b = massive(n, seed=6)
    a[:, 0], a[:, 9], b[:, 5], b[:, 6] = 0.0, 1234.567, -0.1, 1e-12
    return a, b


def test_constant_coordinates_are_listed_and_have_zero_correlation():
    a, b = constant_coordinates()
    result = stream(a, b, 100).result()
    assert result.constant() == ([0, 9], [5, 6])
    c = result.correlation()
    assert torch.isfinite(c).all()
    assert c[:, [0, 9]].abs().max() == 0 and c[[5, 6]].abs().max() == 0
    live = [[i for i in range(D) if i not in constant] for constant in ([5, 6], [0, 9])]
    assert float((c - two_pass(a, b))[live[0]][:, live[1]].abs().max()) <= MAX_ERROR


def test_nearly_constant_is_not_constant():
    """With a mean of 10⁴ standard deviations float32 still has digits: var / mean² = 1e-8."""
    a, b = pair(2000, seed=7)
    a[:, 2] = 1e4 + a[:, 2] / a[:, 2].std()
    result = stream(a, b, 100).result()
    assert result.constant() == ([], [])
    assert error(stream(a, b, 100), a, b) <= MAX_ERROR


def test_constant_coordinate_starts_no_new_segment():
    """Rounding of its mean must not look like drift: merging segments at every chunk would be slow."""
    a, b = constant_coordinates()
    a[:, 0], b[:, 5] = torch.tensor(1 / 3), torch.tensor(-777.77)
    s = stream(a, b, 100)
    assert s._done is None and s._segment is not None and s._segment.rows == len(a)


def tensors_of(s):
    """Return every tensor that the stream holds."""
    tensors = list(s._buffers.values())
    for part in (s._segment, s._done):
        for value in vars(part).values() if part is not None else ():
            if isinstance(value, torch.Tensor):
                tensors.append(value)
            elif isinstance(value, list):  # pairs of column sums
                tensors += [t for sums in value for t in sums]
    return tensors


def test_memory_does_not_grow_with_the_number_of_rows():
    """It holds d² numbers in float32 and float64, one closed segment and one chunk, however many rows."""
    d, chunk = 64, 128
    s, g = MomentStream(), torch.Generator().manual_seed(0)
    for k in range(300):
        x = torch.randn(chunk, d, generator=g) + 100 * (k // 50)  # five new segments
        s.update(x, x.flip(1))
        held = sum(t.numel() * t.element_size() for t in tensors_of(s))
        assert held <= d * d * (4 + 8 + 8) + 2 * chunk * d * 4 + 30 * d * 8
    assert s.result().n == 300 * chunk and s._done is not None


def test_tensors_restore_the_moments():
    a, b = massive(2000, seed=8)
    result = stream(a, b).result()
    tensors = result.tensors()
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())
    back = Moments.from_tensors(tensors)
    assert back.n == result.n
    for name in ("mean_a", "mean_b", "square_a", "square_b"):
        assert torch.equal(getattr(back, name), getattr(result, name))
    # cross is kept in float32: half an ulp of numbers no larger than 1
    assert float((back.correlation() - result.correlation()).abs().max()) <= torch.finfo(torch.float32).eps


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("when", [0, 5])
def test_values_that_are_not_finite_are_rejected_with_side_and_coordinates(bad, when):
    a, b = pair(600)
    b[when * 100 + 3, 17] = b[when * 100 + 4, 31] = bad
    with pytest.raises(
        ValueError, match=r"base at block1 are not finite in 2 coordinate\(s\), the first \[17, 31\]"
    ):
        stream(a, b, 100, name_a="A at block1", name_b="base at block1")
    with pytest.raises(ValueError, match=r"activations of A are not finite"):
        stream(b, a, 100)


def test_rejected_chunk_does_not_change_the_stream():
    a, b = pair(600)
    s = MomentStream()
    for broken in (True, False):
        x = a.clone()
        if broken:
            x[0, 0] = float("nan")
            with pytest.raises(ValueError, match="not finite"):
                s.update(x, b)
        else:
            s.update(x, b)
    assert error(s, a, b) <= MAX_ERROR


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4,), (4, 3)), ((2, 4, 3), (2, 4, 3))])
def test_rows_that_do_not_pair_are_rejected(shapes):
    with pytest.raises(ValueError, match=r"paired rows \[n, d_a\] and \[n, d_b\], got"):
        MomentStream().update(*(torch.ones(s) for s in shapes))


def test_result_without_rows_is_rejected():
    s = MomentStream()
    with pytest.raises(ValueError, match="no tokens were accumulated"):
        s.result()
    s.update(torch.ones(0, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match="no tokens were accumulated"):
        s.result()


@pytest.mark.parametrize("width, tokens", [(24, 400), (24, 16)])  # enough tokens, and fewer than coordinates
def test_whitened_moments_equal_those_of_whitened_rows_and_follow_signed_permutations(width, tokens):
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=g)
    a = torch.randn(tokens, width, generator=g) @ mixing + 3
    b = a + 0.3 * torch.randn(tokens, width, generator=g)

    def whitened(x, y):
        return stream(x, y, 100).result().whitened(stream(x, x, 100).result(), stream(y, y, 100).result())

    def zca(x):
        u, s, vh = torch.linalg.svd(x.double() - x.double().mean(0), full_matrices=False)
        kept = s > 1e-4 * s[0]
        return u[:, kept] @ vh[kept]

    result, (x, y) = whitened(a, b), (zca(a), zca(b))
    norms = y.norm(dim=0)[:, None] * x.norm(dim=0)
    assert torch.allclose(result.correlation(), y.T @ x / norms, atol=1e-4)
    perm, sign = torch.randperm(width, generator=g), torch.randint(0, 2, (width,), generator=g) * 2 - 1
    turned = whitened(a, b[:, perm] * sign).correlation()
    assert torch.allclose(turned, result.correlation()[perm] * sign[:, None], atol=1e-4)
