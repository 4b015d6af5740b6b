"""Name the noise floor of resumed runs (table a8), for the measurement and for its table."""

FLOOR = "neuron_permuted"
"""The condition that measures the noise floor: the same function with its MLP neurons in another order."""

LARGEST_RESOLVED_FLOOR = 0.01
"""Above this divergence of the noise floor, the order of sums alone takes a run off its trajectory, and
divergence says little about the optimizer state."""
