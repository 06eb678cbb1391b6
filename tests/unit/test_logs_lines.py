"""What a stream looks like on the console: whole lines, prefixes, progress bars, unfinished lines."""

from __future__ import annotations

import pytest

from rallypoint.logs.lines import LIMIT, PATIENCE, Cutter, Lines, Raw, colored, last_state


class Clock:
    """A reactor of which only the clock and the timers are there; time passes when told."""

    def __init__(self):
        self.time = 100.0
        self.timers = []

    def now(self):
        return self.time

    def call_at(self, when, call):
        timer = Timer(when, call)
        self.timers.append(timer)
        return timer

    def advance(self, seconds):
        self.time += seconds
        due = [timer for timer in self.timers if timer.when <= self.time]
        self.timers = [timer for timer in self.timers if timer.when > self.time]
        for timer in due:
            timer.fire()


class Timer:
    def __init__(self, when, call):
        self.when, self.call = when, call

    def cancel(self):
        self.call = None

    def fire(self):
        if self.call:
            self.call()


class Paper:
    """An outlet that keeps what was put, with the real one's rule for unfinished lines."""

    def __init__(self, terminal):
        self.terminal = terminal
        self.open_by = None
        self.text = b""

    def put(self, owner, data):
        if not data:
            return
        if self.open_by not in (None, owner):
            data = b"\n" + data
        self.open_by = None if data.endswith(b"\n") else owner
        self.text += data


@pytest.fixture
def clock():
    return Clock()


def make(clock, prefix=b"[0] ", terminal=False):
    paper = Paper(terminal)
    return Lines(clock, paper, prefix), paper


def test_each_line_gets_the_prefix(clock):
    lines, paper = make(clock)
    lines.feed(b"one\ntwo\n\nfour\n")
    assert paper.text == b"[0] one\n[0] two\n[0] \n[0] four\n"


def test_a_line_waits_for_its_end(clock):
    lines, paper = make(clock)
    lines.feed(b"one\ntw")
    clock.advance(60)
    assert paper.text == b"[0] one\n"
    lines.feed(b"o")
    lines.feed(b"\nthree\n")
    assert paper.text == b"[0] one\n[0] two\n[0] three\n"


def test_without_prefix_the_bytes_are_the_same(clock):
    lines, paper = make(clock, prefix=b"")
    written = b"\xff\xfe\x00\r\n 1%\r 2%\r\nx\n\n\nno end"
    for byte in written:
        lines.feed(bytes([byte]))
    lines.end()
    assert paper.text == written


def test_an_unfinished_last_line_gets_an_end_only_with_a_prefix(clock):
    lines, paper = make(clock)
    lines.feed(b"no end")
    lines.end()
    assert paper.text == b"[0] no end\n"


def test_a_progress_bar_in_a_file_is_a_line_for_each_wait(clock):
    lines, paper = make(clock)
    for percent in range(0, 100, 10):
        lines.feed(b"\r%3d%%" % percent)
        clock.advance(PATIENCE / 4)
    shown = paper.text.splitlines()
    assert 2 <= len(shown) <= 4
    assert all(line.startswith(b"[0] ") and line.endswith(b"%") for line in shown)
    lines.feed(b"\r100%")
    clock.advance(PATIENCE)
    lines.feed(b"\nnext\n")  # the bar's own line end must not make an empty line
    assert paper.text.splitlines()[-2:] == [b"[0] 100%", b"[0] next"]


def test_a_progress_bar_on_a_terminal_stays_in_its_place(clock):
    lines, paper = make(clock, terminal=True)
    lines.feed(b"\r10%")
    clock.advance(PATIENCE)
    lines.feed(b"\r20%")
    lines.feed(b"\r30%")
    clock.advance(PATIENCE)
    lines.feed(b"\r100%\ndone\n")
    redraw = b"\r\x1b[K[0] "
    assert paper.text == b"[0] 10%" + redraw + b"30%" + redraw + b"100%\n[0] done\n"


def test_two_bars_on_a_terminal_do_not_share_a_line(clock):
    one, paper = make(clock, terminal=True)
    two = Lines(clock, paper, b"[1] ")
    one.feed(b"\r10%")
    two.feed(b"\r50%")
    clock.advance(PATIENCE)
    one.feed(b"\r20%")
    clock.advance(PATIENCE)
    one.feed(b"\n")
    two.end()
    assert paper.text == b"[0] 10%\n[1] 50%\n[0] 20%\n"


def test_bars_that_end_with_the_carriage_return(clock):
    lines, paper = make(clock)
    lines.feed(b"10%\r20%\r")
    clock.advance(PATIENCE)
    assert paper.text == b"[0] 20%\n"


def test_a_bar_without_prefix_is_shown_with_all_its_states(clock):
    lines, paper = make(clock, prefix=b"")
    lines.feed(b"\r10%\r20%")
    clock.advance(PATIENCE)
    assert paper.text == b"\r10%\r20%"


def test_a_prompt_on_a_terminal_is_shown_after_a_while(clock):
    lines, paper = make(clock, terminal=True)
    lines.feed(b"name? ")
    clock.advance(PATIENCE / 2)
    assert paper.text == b""
    clock.advance(PATIENCE)
    assert paper.text == b"[0] name? "
    lines.feed(b"thanks\n")
    assert paper.text == b"[0] name? thanks\n"


def test_a_shown_prompt_that_others_interrupt_goes_on_in_a_line_of_its_own(clock):
    lines, paper = make(clock, terminal=True)
    other = Lines(clock, paper, b"[1] ")
    lines.feed(b"name? ")
    clock.advance(PATIENCE)
    other.feed(b"hello\n")
    lines.feed(b"thanks\n")
    assert paper.text == b"[0] name? \n[1] hello\n[0] thanks\n"


def test_steady_lines_never_show_halves(clock):
    lines, paper = make(clock, terminal=True)
    for _ in range(10):  # each chunk ends in the middle of a line, and takes a while
        lines.feed(b"b\na")
        clock.advance(PATIENCE * 0.9)
    assert paper.text == b"[0] b\n" + b"[0] ab\n" * 9


def test_an_endless_line_is_passed_on_in_pieces_without_losing_a_byte(clock):
    lines, paper = make(clock, prefix=b"")
    written = b"x" * (LIMIT + 1000)
    for start in range(0, len(written), 60_000):
        lines.feed(written[start : start + 60_000])
    assert len(paper.text) > LIMIT
    lines.feed(b"\n")
    assert paper.text == written + b"\n"


def test_an_endless_line_with_a_prefix_has_it_once(clock):
    lines, paper = make(clock)
    lines.feed(b"x" * (LIMIT + 1))
    lines.feed(b"y\nz\n")
    assert paper.text == b"[0] " + b"x" * (LIMIT + 1) + b"y\n[0] z\n"


def test_raw_passes_everything_at_once():
    paper = Paper(terminal=False)
    raw = Raw(paper, "worker")
    raw.feed(b"\r 10%")
    raw.end()
    assert paper.text == b"\r 10%"


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (b"plain", b"plain"),
        (b"\r10%\r20%", b"20%"),
        (b"10%\r20%\r", b"20%"),
        (b"dos\r", b"dos"),
        (b"\r100%\r      \r", b"100%"),  # tqdm(leave=False) wipes its bar
        (b"\r\r", b""),
        (b"", b""),
    ],
)
def test_last_state(line, state):
    assert last_state(line) == state


def test_cutter_keeps_what_has_no_end():
    cutter = Cutter()
    assert cutter.cut(b"a") == b""
    assert cutter.cut(b"b\nc\nd") == b"ab\nc\n"
    assert cutter.take() == b"d"
    assert cutter.take() == b""


def test_neighbouring_ranks_have_different_colours():
    codes = {colored(rank, "x") for rank in range(8)}
    assert len(codes) == 8
    assert all(code.endswith("x\x1b[0m") for code in codes)
