"""Check equality, hashing and validation of gauge elements."""

import pytest
import torch

from gauge_elements import ALL, gen
from gaugeport.groups import (
    AffineGauge,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    compose,
)


@pytest.mark.parametrize("cls", ALL)
def test_equal_elements_have_equal_hashes(cls):
    g, h = cls.random(8, gen(0)), cls.random(8, gen(0))
    assert g == h and hash(g) == hash(h) and len({g, h}) == 1
    assert g != cls.random(8, gen(1)) and g != "a gauge"


def test_equality_compares_values_and_groups():
    zero, minus_zero = torch.eye(3), torch.eye(3) - torch.zeros(3, 3)
    minus_zero[0, 1] = -0.0
    assert Orthogonal(zero) == Orthogonal(minus_zero) and hash(Orthogonal(zero)) == hash(
        Orthogonal(minus_zero)
    )
    perm = torch.arange(4)
    assert Permutation(perm) != SignedPermutation(perm, torch.ones(4))
    assert AffineGauge(Permutation(perm), torch.zeros(4)) != AffineGauge(
        SignedPermutation.identity(4), torch.zeros(4)
    )
    assert Permutation(perm) != Permutation(torch.arange(5))


def test_elements_copy_the_tensors_they_are_made_from():
    perm, sign = torch.arange(4), torch.ones(4, dtype=torch.int8)
    matrix, shift = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    g, q, a = SignedPermutation(perm, sign), Orthogonal(matrix), AffineGauge(Permutation(perm), shift)
    perm.copy_(torch.tensor([1, 0, 3, 2]))
    sign.neg_(), matrix.neg_(), shift.add_(1)
    assert g == SignedPermutation.identity(4) and q == Orthogonal.identity(4)
    assert a.shift.tolist() == [0] * 4 and a.linear == Permutation.identity(4)


def test_lists_and_other_integer_types_are_accepted():
    for perm in ([1, 0], torch.tensor([1, 0], dtype=torch.int32), torch.tensor([1, 0]).numpy()):
        g = SignedPermutation(perm, [1, -1])
        assert g.perm.dtype == torch.int64 and g.sign.dtype == torch.int8 and g.perm.tolist() == [1, 0]
    assert GlobalSignPermutation([1, 0], torch.tensor(-1)).sign.tolist() == [-1, -1]


@pytest.mark.parametrize(
    "perm", [[0, 0, 1], [1, 2, 3], [0.0, 1.0, 2.0], [[0, 1, 2]], [-1, 0, 1], [True, False, True]]
)
def test_invalid_permutations_raise(perm):
    for make in (
        Permutation,
        lambda p: SignedPermutation(p, torch.ones(3)),
        lambda p: GlobalSignPermutation(p, torch.tensor(1)),
    ):
        with pytest.raises(ValueError, match=r"perm must be a permutation of 0\.\.d-1"):
            make(torch.tensor(perm))
    with pytest.raises(ValueError, match=r"perm must be a permutation of 0\.\.d-1"):
        Permutation(torch.tensor(0))


@pytest.mark.parametrize(
    "sign", [[1, 0, 1], [1, 1], [2, 1, 1], [float("nan"), 1, 1], [[1, 1, 1]], [True, True, True]]
)
def test_invalid_signs_raise(sign):
    with pytest.raises(ValueError, match=r"sign must be a vector of 3 entries \+1 or -1"):
        SignedPermutation(torch.arange(3), torch.tensor(sign))


def test_signs_outside_the_group_raise():
    with pytest.raises(ValueError, match="one sign for all coordinates"):
        GlobalSignPermutation(torch.arange(2), torch.tensor([1, -1]))
    with pytest.raises(ValueError, match=r"sign of a Permutation must be \+1"):
        Permutation(torch.arange(2), torch.tensor([-1, -1]))


def test_matrices_that_are_no_rotation_raise():
    for matrix in (torch.ones(2, 3), torch.ones(3)):
        with pytest.raises(ValueError, match="an orthogonal matrix is square"):
            Orthogonal(matrix)
    for matrix in (2 * torch.eye(3), torch.ones(3, 3), torch.full((3, 3), float("nan"))):
        with pytest.raises(ValueError, match="matrix is not orthogonal"):
            Orthogonal(matrix)
    flip = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    assert Orthogonal(flip).size == 3
    with pytest.raises(ValueError, match="does not fix the all-ones vector"):
        MeanPreservingOrthogonal(flip)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cls", [Orthogonal, MeanPreservingOrthogonal])
def test_rotation_rounded_to_16_bits_is_told_to_be_made_in_float32(dtype, cls):
    exact = cls.random(64, gen(0)).matrix
    for rounded in (exact.to(dtype), exact.to(dtype).float(), exact.to(dtype).double()):
        with pytest.raises(ValueError, match=rf"rounded to {str(dtype)[6:]}.*float32 or float64, made in"):
            cls(rounded)
    assert cls(exact.float()).size == 64
    assert Orthogonal(torch.eye(3, dtype=dtype)).size == 3, "an exact matrix is accepted in any dtype"
    for matrix in (2 * torch.eye(3), torch.ones(3, 3)):  # negative control: representable, but no rounding
        with pytest.raises(ValueError, match=r"not orthogonal: .*allowed 0\.0001$"):
            Orthogonal(matrix)


def test_invalid_affine_parts_raise():
    g = Permutation.identity(3)
    with pytest.raises(ValueError, match=r"3 entries, got shape \(4,\)"):
        AffineGauge(g, torch.zeros(4))
    with pytest.raises(ValueError, match="shift must be finite"):
        AffineGauge(g, torch.tensor([0.0, float("nan"), 0.0]))
    for scale in (0, -1.0, float("nan"), float("inf"), torch.ones(2), 1j):
        with pytest.raises(ValueError, match="scale must be one positive, finite number"):
            AffineGauge(g, torch.zeros(3), scale)
    assert type(AffineGauge(g, torch.zeros(3), torch.tensor(2)).scale) is float
    for linear in (AffineGauge(g, torch.zeros(3)), torch.eye(3)):
        with pytest.raises(ValueError, match=r"expected a linear gauge element, got (AffineGauge|Tensor)"):
            AffineGauge(linear, torch.zeros(3))


@pytest.mark.parametrize("cls", ALL)
def test_wrong_widths_raise(cls):
    g = cls.random(4, gen(0))
    with pytest.raises(ValueError, match="cannot compose gauges of widths 4 and 5"):
        compose(g, cls.random(5, gen(0)))
    for x, axis in (
        (torch.ones(2, 5), -1),
        (torch.ones(4, 5), 1),
        (torch.ones(4, 4), 2),
        (torch.tensor(1.0), -1),
    ):
        with pytest.raises(ValueError, match="gauge's width 4"):
            g.act(x, axis)
