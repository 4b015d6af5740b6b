"""Share one store between the tests that run jobs at smoke size, so that each model is trained once."""

import pytest

from gaugeport.pipeline.store.store import Store


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The store of all smoke jobs of a session; stages in it never change once they are built."""
    return Store(tmp_path_factory.mktemp("store"))
