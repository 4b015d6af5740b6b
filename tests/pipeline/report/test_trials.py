"""What the toy's trials of depth labels say, which the findings quote."""

import numpy as np
import pytest

from findings_module import load

findings = load()


def test_the_toys_learn_the_running_depth_and_not_the_unmatched_one():
    assert findings.trial("running", 8e-3, 3000, "depth") > 0.999
    for rate in (2e-3, 8e-3):
        assert findings.trial("unmatched", rate, 5000, "depth") < 0.95
    # one head of three, three positions of four
    assert findings.decoy_cost(0.25) == pytest.approx(0.25 * np.log(2))
    asked = findings.deepest_needed(0.170)  # of the paper's decoy
    assert findings.decoy_cost(asked) == pytest.approx(0.170)
    assert findings.deepest("running") < findings.deepest("unmatched") < asked
