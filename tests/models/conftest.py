"""A tiny multimodal checkpoint, saved once."""

import pytest

from multimodal_models import save_gemma3


@pytest.fixture(scope="session")
def multimodal(tmp_path_factory):
    """A Gemma3 with a vision tower, and the folder that it is saved in."""
    folder = tmp_path_factory.mktemp("multimodal")
    return save_gemma3(folder), folder
