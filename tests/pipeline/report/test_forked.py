"""Calls in forked processes return what calls in this one do."""

import os
import threading

import pytest

from gaugeport.pipeline.report.forked import map_forked


def test_results_come_in_order_from_other_processes():
    results = map_forked(lambda x, y: (x + y, os.getpid()), [(i, 10) for i in range(5)])
    assert [total for total, _ in results] == [10, 11, 12, 13, 14]
    several = len(os.sched_getaffinity(0)) > 1 and threading.active_count() == 1
    assert (os.getpid() not in {process for _, process in results}) == several


def test_errors_are_raised():
    with pytest.raises(ValueError, match="bad value 3"):
        map_forked(fail, [(1,), (3,)])


def fail(x):
    if x == 3:
        raise ValueError(f"bad value {x}")
    return x


def test_other_threads_keep_calls_in_this_process():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert map_forked(os.getpid, [(), ()]) == [os.getpid()] * 2
    finally:
        stop.set()
        thread.join()
