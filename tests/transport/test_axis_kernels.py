"""Test that the in-place kernels are bit-equal to ``g.act``, for all dtypes, axes, layouts and threads."""

import threading

import pytest
import torch

from gaugeport.groups import GlobalSignPermutation, Orthogonal, Permutation, SignedPermutation
from gaugeport.transport.axis import InPlace

D = 264
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHAPES = (
    ((601, D), 1),
    ((D, 601), 0),
    ((D,), 0),
    ((3, 7, D), 1 + 1),
    ((3, D, 205), 1),
    ((D, 3, 150), 0),
    ((5, D), -1),
)


def bits(x):
    return x.contiguous().view(INTEGERS[x.dtype.itemsize])


def sample(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), torch.finfo(dtype).tiny])
    x.view(-1)[:5] = special.to(dtype)
    return x


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("cls", [SignedPermutation, GlobalSignPermutation, Permutation])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_are_bit_equal_to_act(cls, dtype, threads):
    g = cls.random(D, torch.Generator().manual_seed(2))
    for shape, axis in SHAPES:
        x = sample(shape, dtype)
        expected, expected_gain = g.act(x, axis), g.act_gain(x, axis)
        y, z = x.clone(), x.clone()
        with InPlace(g) as act:
            act.vector(y, axis)
            act.gain(z, axis)
        assert torch.equal(bits(y), bits(expected)), (shape, axis)
        assert torch.equal(bits(z), bits(expected_gain)), (shape, axis)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_are_moved_in_place(dtype, threads):
    g = SignedPermutation.random(D, torch.Generator().manual_seed(2))
    transposed = sample((601, D), dtype).T
    strided = sample((601, 2 * D), dtype)[:, ::2]
    offset = sample((603, D), dtype)[1:-1]
    for view, axis in ((transposed, 0), (strided, 1), (offset, 1)):
        expected, pointer = g.act(view, axis), view.data_ptr()
        with InPlace(g) as act:
            act.vector(view, axis)
        assert view.data_ptr() == pointer
        assert torch.equal(bits(view), bits(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_pattern_keeps_all_but_its_sign_bit(dtype, threads):
    """Only the sign bit may change in any of the 65536 values, NaNs and subnormals included."""
    g = SignedPermutation.random(256, torch.Generator().manual_seed(2))
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(256, 256)
    patterns = torch.cat([patterns, patterns.flip(0)[:101]])
    expected = patterns[:, g.perm] ^ torch.where(g.sign < 0, -0x8000, 0).to(torch.int16)
    x = patterns.clone().view(dtype)
    with InPlace(g) as act:
        act.vector(x, 1)
    assert torch.equal(x.view(torch.int16), expected)


def test_scratch_is_reused_between_shapes_and_dtypes():
    g = SignedPermutation.random(D, torch.Generator().manual_seed(2))
    tensors = [sample(s, t) for t in DTYPES for s in ((900, D), (300, D))]
    expected = [g.act(x, 1) for x in tensors]
    with InPlace(g) as act:
        for x in tensors:
            act.vector(x, 1)
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))


def test_thread_count_is_restored_after_an_error(threads):
    g = SignedPermutation.random(D)
    with pytest.raises(ValueError, match=f"axis 1 .*{D + 1}.* gauge's width {D}"), InPlace(g) as act:
        act.vector(torch.zeros(900, D), 1)
        act.vector(torch.zeros(3, D + 1), 1)
    assert torch.get_num_threads() == threads
    thread_counts = []
    worker = threading.Thread(target=lambda: thread_counts.append(torch.get_num_threads()))
    worker.start()
    worker.join()
    assert thread_counts == [threads]


def test_rotations_equal_act_and_refuse_gains():
    g = Orthogonal.random(D, torch.Generator().manual_seed(2))
    x = sample((40, D), torch.float32).nan_to_num(posinf=1, neginf=1)
    for tensor, axis in ((x, 1), (x.T.contiguous(), 0)):
        y = tensor.clone()
        with InPlace(g) as act:
            act.vector(y, axis)
            with pytest.raises(ValueError, match="rotation does not act"):
                act.gain(y, axis)
        torch.testing.assert_close(y, g.act(tensor, axis))


@pytest.mark.parametrize("cls", [SignedPermutation, Orthogonal])
@pytest.mark.parametrize(("shape", "axis"), [((0, D), 1), ((D, 0), 0), ((3, 0, D), 2), ((0, D, 2), 1)])
def test_tensors_without_entries_stay_without(cls, shape, axis):
    x = torch.zeros(shape)
    with InPlace(cls.random(D, torch.Generator().manual_seed(2))) as act:
        act.vector(x, axis)
    assert x.shape == shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_are_bit_equal_to_act_on_a_gpu(dtype):
    g = SignedPermutation.random(D, torch.Generator().manual_seed(2))
    for shape, axis in SHAPES:
        x = sample(shape, dtype)
        y = x.cuda()
        with InPlace(g) as act:
            act.vector(y, axis)
        assert torch.equal(bits(y.cpu()), bits(g.act(x, axis)))
