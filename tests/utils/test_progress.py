"""Progress is drawn on a terminal only, and only on stderr."""

import io
import sys

from gaugeport.utils.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_drawn_where_stderr_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar() as bar:
        assert bar is None
    assert sys.stderr.getvalue() == ""


def test_a_terminal_gets_one_line_for_each_kind_of_step(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar() as bar:
        for done in (1, 2, 3):
            bar(done, 3, "running A")
        bar(1, 0, "weights")
    drawn = sys.stderr.getvalue()
    assert "running A" in drawn and "100%" in drawn and "weights" in drawn
    assert capsys.readouterr().out == ""
