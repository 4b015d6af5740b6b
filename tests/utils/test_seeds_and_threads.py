"""Check that seeds depend on their purpose alone and that the number of threads is restored."""

import pytest
import torch

from gaugeport.utils.devices import cpu_threads
from gaugeport.utils.seeds import derive, generator


def test_derived_seeds_are_fixed_forever():
    assert derive(0, "run", "A", "data") == 1052958604
    assert derive(0, "run", "A", "data") != derive(0, "run", "B", "data") != derive(1, "run", "B", "data")
    assert 0 <= derive(7) < 2**31


def test_derived_seeds_differ_between_purposes():
    purposes = ((), ("run",), ("run", "A"), ("run", "B"), ("A", "run"), (0.1,), (1,))
    seeds = {derive(seed, *purpose) for seed in range(20) for purpose in purposes}
    assert len(seeds) == 20 * 7 and all(0 <= seed < 2**31 for seed in seeds)


def test_generators_leave_the_global_state_alone():
    state = torch.get_rng_state()
    draws = [torch.rand(3, generator=generator(0, "a")) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), state)


def test_number_of_threads_is_restored_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(OSError), cpu_threads(1):
            assert torch.get_num_threads() == 1
            raise OSError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
