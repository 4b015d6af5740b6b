"""What the calibration task refuses, the noise it adds, and the order in which it visits links."""

import pytest
import torch

from gaugeport.alignment.routes import ROUTES, links, walk
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.tasks.calibration import _around, add_noise


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.pair=seeds", "task.pair='seeds'; allowed: runs, noise"),
        ("task.tokens=[0]", r"task.tokens=\[0\]; allowed: whole numbers from 1"),
        ("task.at_length=32", r"task.at_length=32; allowed: a length of task.lengths \(16, 64, 128\)"),
        ("task.shares=[1.5]", r"task.shares=\[1.5\]; allowed: shares from 0 to 1"),
        ("task.noise=[0.0]", r"task.noise=\[0.0\]; allowed: positive numbers"),
    ],
)
def test_settings_that_mean_nothing_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        from_config(compose_config(["profile=smoke", "task=calibration", override]), [])


@pytest.mark.parametrize("step", [5, 15])
def test_every_link_of_every_route_is_visited_with_three_models_in_memory(step):
    walks = [walk(route, step, 5) for route in ROUTES]
    visited = _around(walk("trajectory", step, 5))
    both = {*visited, *((b, a) for a, b in visited)}
    assert set(links(walks)) <= both
    for i, link in enumerate(visited):
        before = {node for pair in visited[: i + 1] for node in pair}
        assert len(before & {node for pair in visited[i:] for node in pair}) <= 3, link


def test_noise_is_of_each_matrix_and_leaves_gains_alone():
    before, noisy = (tiny_model("llama", torch.Generator().manual_seed(0)) for _ in range(2))
    add_noise(noisy, 0.1, seed=0)
    for (name, old), new in zip(before.state_dict().items(), noisy.state_dict().values(), strict=True):
        moved = float((new - old).std() / old.std()) if old.dim() == 2 else float((new - old).abs().max())
        assert moved == pytest.approx(0.1 if old.dim() == 2 else 0.0, rel=0.1), name
