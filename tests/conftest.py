"""Tiny models are faster on one thread, and far faster where cores are shared."""

import gc
import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def what_is_imported_stays():
    """Trainer collects garbage whenever it ends: a third of a second through all that is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def group_may_read():
    """New files get the mode 0640, which neither a careless default nor safetensors gives."""
    before = os.umask(0o027)
    yield
    os.umask(before)


LONGEST_FIRST = (
    "test_every_table.py",
    "test_sweeps.py",
    "test_tables.py",
    "test_reference.py",
    "test_new_table.py",
)


def pytest_collection_modifyitems(items):
    """Files that take minutes first, so that no worker is left with one while the others are done."""
    items.sort(
        key=lambda item: LONGEST_FIRST.index(item.path.name) if item.path.name in LONGEST_FIRST else 99
    )
