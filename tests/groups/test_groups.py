"""Check gauge elements against their definitions: group laws, actions, Haar measure, files, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gaugeport.groups import (
    GROUPS,
    AffineGauge,
    Element,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    compose,
    contains,
    haar_matrix,
    load,
    mean_free_basis,
    provenance,
    smallest_common_group,
)

DISCRETE = (Permutation, GlobalSignPermutation, SignedPermutation)
LINEAR = (*DISCRETE, MeanPreservingOrthogonal, Orthogonal)
ALL = (*LINEAR, AffineGauge)
EXACT = 1e-12  # float64 products of matrices with orthonormal rows, d ≤ 12

widths = st.integers(2, 12)
seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=25, deadline=None)


def gen(seed):
    return torch.Generator().manual_seed(seed)


def rows(d, generator, n=5):
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def close(a, b, tolerance=EXACT):
    return torch.allclose(a, b, rtol=0, atol=tolerance)


def draw(cls, d, generator):
    return cls.random(d, generator)


def same(g, h):
    """Whether two elements are the same map, by their action on d + 1 affinely independent points."""
    points = torch.cat([torch.eye(g.size, dtype=torch.float64), torch.zeros(1, g.size, dtype=torch.float64)])
    return close(g.act(points), h.act(points), 1e-10)


@pytest.mark.parametrize("cls", ALL)
@quick
@given(d=widths, seed=seeds)
def test_group_laws_hold(cls, d, seed):
    generator = gen(seed)
    f, g, h = (draw(cls, d, generator) for _ in range(3))
    one = cls.identity(d)
    assert same(compose(f, compose(g, h)), compose(compose(f, g), h))
    assert same(compose(g, one), g) and same(compose(one, g), g)
    assert same(compose(g, g.inverse()), one) and same(compose(g.inverse(), g), one)
    assert same(compose(f, g).inverse(), compose(g.inverse(), f.inverse()))
    assert type(compose(f, g)) is type(f.inverse()) is type(one) is cls
    if cls in DISCRETE:
        assert compose(f, compose(g, h)) == compose(compose(f, g), h)
        assert compose(g, g.inverse()) == one and compose(g, one) == g


@pytest.mark.parametrize("first", ALL)
@pytest.mark.parametrize("second", ALL)
@quick
@given(d=widths, seed=seeds)
def test_composition_acts_like_both_elements_in_turn(first, second, d, seed):
    generator = gen(seed)
    g, h = draw(first, d, generator), draw(second, d, generator)
    x = rows(d, generator)
    both = compose(g, h)
    assert close(both.act(x), g.act(h.act(x)), 1e-11)
    smaller = [c for c in ALL if contains(c.group, g) and contains(c.group, h)]
    assert type(both) is smaller[0]  # ALL is ordered so that the first that holds both is the smallest


def test_smallest_common_group_of_two_classes():
    cases = {
        (Permutation, Permutation): Permutation,
        (Permutation, GlobalSignPermutation): GlobalSignPermutation,
        (GlobalSignPermutation, SignedPermutation): SignedPermutation,
        (GlobalSignPermutation, MeanPreservingOrthogonal): MeanPreservingOrthogonal,
        (SignedPermutation, MeanPreservingOrthogonal): Orthogonal,  # a sign flip moves the all-ones direction
        (MeanPreservingOrthogonal, Orthogonal): Orthogonal,
    }
    for (a, b), joint in cases.items():
        g, h = a.random(6, gen(0)), b.random(6, gen(1))
        assert smallest_common_group(g, h) is smallest_common_group(h, g) is joint


def test_contains_follows_the_inclusions_of_the_groups():
    members_of = {
        "permutation": {Permutation},
        "global_sign_permutation": {Permutation, GlobalSignPermutation},
        "signed_permutation": set(DISCRETE),
        "mean_preserving_orthogonal": {Permutation, GlobalSignPermutation, MeanPreservingOrthogonal},
        "orthogonal": set(LINEAR),
        "affine": set(ALL),
    }
    assert set(members_of) == set(GROUPS)
    for group, members in members_of.items():
        for cls in ALL:
            assert contains(group, cls) is contains(group, cls.random(4, gen(2))) is (cls in members)
    with pytest.raises(ValueError, match=r"unknown group 'hyperoctahedral'; allowed: permutation"):
        contains("hyperoctahedral", Permutation)


@pytest.mark.parametrize("cls", LINEAR)
@quick
@given(d=widths, seed=seeds)
def test_dense_form_agrees_with_the_action(cls, d, seed):
    generator = gen(seed)
    g, x = draw(cls, d, generator), rows(d, generator)
    q = g.dense()
    assert close(g.act(x), x @ q.T)
    assert close(q @ q.T, torch.eye(d, dtype=torch.float64))
    assert close(g.inverse().dense(), q.T)


def test_signed_permutation_moves_each_entry_as_defined():
    g = SignedPermutation(torch.tensor([2, 0, 1]), torch.tensor([1, -1, -1]))
    x = torch.tensor([10.0, 20.0, 30.0])
    assert g.act(x).tolist() == [30.0, -10.0, -20.0]
    assert g.act_gain(x).tolist() == [30.0, 10.0, 20.0]
    assert g.dense().tolist() == [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    assert g.inverse().act(g.act(x)).tolist() == x.tolist()
    assert g.without_signs() == Permutation(torch.tensor([2, 0, 1]))


def test_composition_order_matters():
    g, h = (Permutation(torch.tensor(p)) for p in ([1, 0, 2], [0, 2, 1]))
    assert compose(g, h).act(torch.arange(3)).tolist() == g.act(h.act(torch.arange(3))).tolist() == [2, 0, 1]
    assert compose(g, h) != compose(h, g)


@pytest.mark.parametrize("cls", LINEAR)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_elements_act_on_any_axis(cls, axis):
    d = 6
    shape = [2, 3, 4]
    shape[axis] = d
    g, x = cls.random(d, gen(1)), torch.randn(shape, generator=gen(2), dtype=torch.float64)
    assert close(g.act(x, axis), (x.movedim(axis, -1) @ g.dense().T).movedim(-1, axis))
    if cls in DISCRETE:
        assert torch.equal(g.act_gain(x, axis), x.movedim(axis, -1)[..., g.perm].movedim(-1, axis))


@pytest.mark.parametrize("cls", DISCRETE)
@quick
@given(d=widths, seed=seeds)
def test_second_moments_are_permuted_only(cls, d, seed):
    generator = gen(seed)
    g, x = draw(cls, d, generator), rows(d, generator)
    assert torch.equal(g.act(x).square().mean(0), g.act_gain(x.square().mean(0)))
    assert torch.equal(g.act(x).abs().amax(0), g.act_gain(x.abs().amax(0)))


@pytest.mark.parametrize("cls", [Orthogonal, MeanPreservingOrthogonal])
def test_rotations_refuse_magnitudes(cls):
    with pytest.raises(
        ValueError, match="Allowed groups: permutation, global_sign_permutation, signed_permutation"
    ):
        cls.random(4, gen(0)).act_gain(torch.ones(4))


@pytest.mark.parametrize("cls", DISCRETE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_inverse_undoes_the_action_exactly_in_every_dtype(cls, dtype):
    g, x = cls.random(64, gen(0)), torch.randn(8, 64, generator=gen(1)).to(dtype)
    moved = g.act(x)
    assert moved.dtype == dtype
    assert torch.equal(g.inverse().act(moved), x)
    assert torch.equal(moved.double(), g.act(x.double()))


def test_affine_has_no_action_on_magnitudes_and_no_matrix():
    g = AffineGauge.random(4, gen(0))
    with pytest.raises(ValueError, match=r"affine gauge does not act on gains.*\.linear"):
        g.act_gain(torch.ones(4))
    with pytest.raises(ValueError, match=r"affine gauge has no matrix.*\.linear"):
        g.dense()


def test_elements_must_define_every_operation():
    with pytest.raises(TypeError, match="abstract"):
        Element()


def test_affine_rounds_bfloat16_once():
    g, x = AffineGauge.random(32, gen(1)), rows(32, gen(2)).to(torch.bfloat16)
    assert torch.equal(g.act(x), g.act(x.to(torch.float32)).to(torch.bfloat16))


def test_affine_applies_linear_part_then_shift():
    linear, shift = SignedPermutation.random(5, gen(0)), torch.arange(5.0)
    g, x = AffineGauge(linear, shift), rows(5, gen(1))
    assert close(g.act(x), linear.act(x) + shift)
    assert close(g.act(x.T, axis=0), g.act(x).T)
    h = AffineGauge(Orthogonal.random(5, gen(2)), torch.ones(5))
    assert close(compose(g, h).act(x), linear.act(h.act(x)) + shift)
    assert close(compose(g, linear).act(x), linear.act(linear.act(x)) + shift)
    assert close(compose(linear, h).act(x), linear.act(h.act(x)))
    assert close(g.inverse().act(g.act(x)), x)


# Haar measure


def first_column_signs(draw_one, trials=400):
    return sum(float(draw_one()[0, 0]) > 0 for _ in range(trials)) / trials


def uncorrected(d, generator):
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


def test_haar_needs_the_sign_correction():
    """Under Haar measure Q₀₀ is symmetric about 0; QR without the correction always makes it negative.

    Over 400 trials the share of positive values has standard deviation 1/40, so 5 standard deviations are
    1/8.
    """
    corrected, raw = gen(0), gen(0)
    assert abs(first_column_signs(lambda: Orthogonal.random(6, corrected).matrix) - 0.5) < 5 / 40
    assert abs(first_column_signs(lambda: uncorrected(6, raw)) - 0.5) > 5 / 40


def test_haar_traces_have_the_known_moments():
    """Under Haar measure on O(d), d ≥ 2: E[tr Q] = 0, E[(tr Q)²] = 1, E[tr Q²] = 1 (Diaconis 1994)."""
    n, d = 2000, 8

    def statistics(draw_one):
        qs = torch.stack([draw_one() for _ in range(n)])
        traces = qs.diagonal(dim1=1, dim2=2).sum(1)
        squares = (qs @ qs).diagonal(dim1=1, dim2=2).sum(1)
        return [
            ((v - e).mean() / v.std() * n**0.5).abs().item()
            for v, e in ((traces, 0), (traces**2, 1), (squares, 1))
        ]

    corrected, raw = gen(3), gen(3)
    assert max(statistics(lambda: haar_matrix(d, corrected))) < 5
    assert max(statistics(lambda: uncorrected(d, raw))) > 5


def test_haar_determinants_are_positive_half_of_the_time():
    generator = gen(5)
    positive = sum(float(torch.linalg.det(haar_matrix(5, generator))) > 0 for _ in range(400)) / 400
    assert abs(positive - 0.5) < 5 / 40


@pytest.mark.parametrize("d", [1, 2, 3, 17, 64])
def test_mean_preserving_rotation_fixes_ones_up_to_a_fair_sign(d):
    generator, ones, signs = gen(d), torch.ones(d, dtype=torch.float64), []
    for _ in range(40):
        moved = MeanPreservingOrthogonal.random(d, generator).act(ones)
        signs.append(round(float(moved[0])))
        assert close(moved, signs[-1] * ones, 1e-12) and abs(signs[-1]) == 1
    assert abs(sum(signs)) < 5 * math.sqrt(40)
    basis = mean_free_basis(d)
    assert close(basis.T @ basis, torch.eye(d - 1, dtype=torch.float64)) and close(
        ones @ basis, torch.zeros(d - 1).double()
    )


def test_mean_preserving_rotation_is_haar_on_the_complement():
    """For B an orthonormal basis of the complement of 1, BᵀQB is Haar on O(d-1): E[tr] = 0, E[tr²] = 1."""
    basis, generator, n = mean_free_basis(7), gen(1), 2000
    traces = torch.stack(
        [(basis.T @ MeanPreservingOrthogonal.random(7, generator).matrix @ basis).trace() for _ in range(n)]
    )
    for values, expected in ((traces, 0.0), (traces**2, 1.0)):
        assert abs(float((values - expected).mean() / values.std())) * n**0.5 < 5


@pytest.mark.parametrize("cls", DISCRETE)
def test_random_elements_are_uniform(cls):
    """At d = 3 all 6, 12 or 48 elements are equally likely.

    The statistic χ² must lie within 5 standard deviations of its mean.
    """
    generator, n = gen(8), 4800
    counts = {}
    for _ in range(n):
        g = cls.random(3, generator)
        counts[g] = counts.get(g, 0) + 1
    size = {Permutation: 6, GlobalSignPermutation: 12, SignedPermutation: 48}[cls]
    assert len(counts) == size
    chi2 = sum((c - n / size) ** 2 / (n / size) for c in counts.values())
    assert chi2 < size - 1 + 5 * math.sqrt(2 * (size - 1))


@pytest.mark.parametrize("cls", ALL)
def test_random_elements_depend_on_the_generator_alone(cls):
    state = torch.get_rng_state()
    assert cls.random(9, gen(4)) == cls.random(9, gen(4)) != cls.random(9, gen(5))
    assert torch.equal(torch.get_rng_state(), state)


# values


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


# files


def every_element(d=6):
    linear = [cls.random(d, gen(i)) for i, cls in enumerate(LINEAR)]
    return [*linear, *(AffineGauge(g, torch.arange(d) / 3) for g in linear)]


@pytest.mark.parametrize(
    "g", every_element(), ids=lambda g: g.group + ("" if g.group != "affine" else f"-{g.linear.group}")
)
def test_file_round_trip_keeps_element_and_provenance(g, tmp_path):
    path = g.save(tmp_path / "deep" / "g.safetensors", {"model": "tiny", "step": 3})
    back = load(path)
    assert back == g and type(back) is type(g) and hash(back) == hash(g)
    assert load(path, width=6) == g
    assert provenance(path) == {"model": "tiny", "step": 3}
    assert [p.name for p in path.parent.iterdir()] == ["g.safetensors"]


def test_saving_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "g.safetensors"
    first, second = SignedPermutation.random(6, gen(0)), SignedPermutation.random(6, gen(1))
    first.save(path)

    def crash(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("gaugeport.groups.element.save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        second.save(path)
    assert load(path) == first
    with pytest.raises(TypeError):
        second.save(tmp_path / "other.safetensors", {"not json": object()})
    assert not (tmp_path / "other.safetensors").exists()


def test_invalid_files_raise(tmp_path):
    path = SignedPermutation.random(6, gen(0)).save(tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match=r"width 6; expected.*8"):
        load(path, width=8)
    with pytest.raises(FileNotFoundError, match=r"does not exist: .*missing\.safetensors"):
        load(tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError, match="got a folder"):
        load(tmp_path)
    for name, damage in (
        ("cut", path.read_bytes()[:-7]),
        ("text", b"not safetensors at all"),
        ("empty", b""),
    ):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            load(tmp_path / name)
    save_file({"weight": torch.ones(3)}, tmp_path / "model")
    with pytest.raises(ValueError, match=r"not a gauge file.*None; allowed: permutation"):
        load(tmp_path / "model")
    for group, extra in (("permutation", {}), ("affine", {"linear_group": "permutation"}), ("affine", {})):
        save_file({"weight": torch.ones(3)}, tmp_path / "half", metadata={"gaugeport_group": group, **extra})
        with pytest.raises(ValueError, match=rf"not a complete gauge file of group '{group}'"):
            load(tmp_path / "half")


# errors


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


def test_invalid_affine_parts_raise():
    g = Permutation.identity(3)
    with pytest.raises(ValueError, match=r"3 entries, got shape \(4,\)"):
        AffineGauge(g, torch.zeros(4))
    with pytest.raises(ValueError, match="shift must be finite"):
        AffineGauge(g, torch.tensor([0.0, float("nan"), 0.0]))
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
