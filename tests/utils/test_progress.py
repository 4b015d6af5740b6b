"""Progress is drawn on a terminal; elsewhere lines say how much time is left of what is long."""

import io
import sys

from gaugeport.utils.progress import Lines, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_drawn_in_ci(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("CI", "1")
    with progress_bar() as bar:
        assert bar is None
    assert sys.stderr.getvalue() == ""


def said(capsys, seconds, total, calls=0, whats=("running A",)):
    """Return the lines of steps that take some seconds each."""
    clock = [0.0]
    lines = Lines(calls, lambda: clock[0])
    for what in whats:
        for done in range(1, total + 1):
            clock[0] += seconds
            lines(done, total, what)
    return capsys.readouterr().err.splitlines()


def test_what_is_short_is_not_announced(capsys):
    assert said(capsys, 0.1, 100) == [] == said(capsys, 5, 10)


def test_what_is_long_says_so_at_its_start_and_then_every_minute(capsys):
    lines = said(capsys, 4, 50)  # 200 s
    assert lines[0] == "running A · 2 % · about 3 min left"
    assert lines[1:] == ["running A · 32 % · about 2 min left", "running A · 62 % · about 76 s left",
                         "running A · 92 % · about 16 s left"]  # fmt: skip


def test_all_calls_count_where_their_number_is_known(capsys):
    lines = said(capsys, 4, 10, calls=40, whats=("running A", "running B", "held out A", "held out B"))
    assert lines[0] == "running A · 2 % · about 3 min left"
    assert lines[1:] == ["running B · 40 % · about 2 min left", "held out B · 78 % · about 36 s left"]


def test_no_terminal_and_no_ci_gets_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delenv("CI", raising=False)
    with progress_bar(7) as bar:
        assert isinstance(bar, Lines) and bar.calls == 7


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
    with progress_bar(calls=2) as bar:
        bar(1, 1, "running A")
    assert "in all" in sys.stderr.getvalue() and "50%" in sys.stderr.getvalue()
