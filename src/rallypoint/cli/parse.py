"""Command line and environment against an option table: what was said, before any meaning.

Not argparse, for three reasons. It looks at the arguments after the script too (a script's ``--n`` is
"ambiguous", the first ``--`` after the script is lost); this scanner stops at the script, so those cannot
be harmed. It knows no ``PET_`` variable, so an error could not name one. And it costs 10 ms before a worker starts.

What it shares with argparse: ``--name value``, ``--name=value``, unique abbreviations, ``-r3``, ``-r 3``,
``-r=3``, ``-mr3``; the last value wins; a value that begins with ``-`` needs ``=`` (a negative number does not).
"""

from __future__ import annotations

from rallypoint.cli.option import ACTION, COUNT, FLAG, MAYBE, TORCHRUN, VALUE, Option
from rallypoint.cli.options import options
from rallypoint.model.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Said = dict[str, tuple[str, str]]


class MisuseError(UsageError):
    """A command line that is wrong as a whole, or in a way that is told best in a sentence of its own."""

    def __init__(self, sentence: str) -> None:
        super().__init__("command line", "", sentence)

    def __str__(self) -> str:
        return self.allowed


class Given:
    """What was said: for each option its text and where it was said, then the program and its arguments."""

    def __init__(self, table: Sequence[Option], said: Said, words: Sequence[str]) -> None:
        self._table = {o.dest: o for o in table}
        self._said = said
        self.program = words[0] if words else ""
        self.arguments = tuple(words[1:])

    def said(self, dest: str) -> bool:
        return dest in self._said

    def text(self, dest: str) -> str:
        """What was said, else the default ("" for none)."""
        return self._said[dest][0] if dest in self._said else self._table[dest].default

    def count(self, dest: str) -> int:
        return int(self._said[dest][0]) if dest in self._said else 0

    def flag(self, dest: str) -> bool:
        return dest in self._said and self.count(dest) != 0

    def where(self, dest: str) -> str:
        """The option as the user wrote it, or the variable that it came from."""
        return self._said[dest][1] if dest in self._said else self._table[dest].name

    def wrong(self, dest: str, allowed: str) -> UsageError:
        """Return the error for the value of ``dest``."""
        return UsageError(self.where(dest), self.text(dest), allowed)

    def __repr__(self) -> str:
        said = " ".join(f"{where}={text}" for text, where in self._said.values())
        return f"<Given {said} | {self.program} {' '.join(self.arguments)}>"


def parse(argv: Sequence[str], environ: Mapping[str, str], legacy: bool = False) -> Given:
    """Read a command line of ``rallyrun``. Raises UsageError for options and choices that do not exist.

    If ``--help`` or ``--version`` was said, nothing else needs to be right.
    """
    table = options(legacy)
    said, words = scan(argv, table)
    given = Given(table, said, words)
    if given.flag("help") or given.flag("version"):
        return given
    for option in table:
        text = environ.get(option.variable, "")
        # An empty variable says nothing: that is how a shell or a manifest leaves something out.
        if text and option.kind != ACTION and option.dest not in said:
            said[option.dest] = (text, option.variable)
    for option in table:
        if option.dest in said:
            _check(option, *said[option.dest])
    if not words:
        raise MisuseError("no program is named: after the options comes a script (or module, or command)")
    return given


def scan(argv: Sequence[str], table: Sequence[Option]) -> tuple[Said, list[str]]:
    """Return what the options say, and the words from the first that is no option (``--`` before it is dropped).

    Stops at an ACTION: what follows it does not matter. Raises UsageError.
    """
    said: Said = {}
    words = list(argv)
    while words:
        word = words[0]
        if not _is_option(word) or word == "--":
            return said, words[1:] if word == "--" else words
        del words[0]
        read = _long if word.startswith("--") else _short
        if any(option.kind == ACTION for option in read(word, words, table, said)):
            break
    return said, words


def _is_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-"


def _long(word: str, words: list[str], table: Sequence[Option], said: Said) -> tuple[Option]:
    name, equals, text = word.partition("=")
    option = _find(name, table)
    if option.kind == VALUE:
        said[option.dest] = (text if equals else _next(name, words), name)
    elif option.kind == MAYBE:
        said[option.dest] = (text, name)
    elif equals:
        raise UsageError(name, text, "it takes no value")
    else:
        _count(option, name, said)
    return (option,)


def _short(word: str, words: list[str], table: Sequence[Option], said: Said) -> list[Option]:
    """Read a word such as -r3, -mr3 or -vv."""
    found = []
    letters = word[1:]
    while letters:
        name, letters = "-" + letters[0], letters[1:]
        option = next((o for o in table if o.short == name), None)
        if option is None:
            raise MisuseError(_unknown(word, table))
        found.append(option)
        if option.kind == VALUE:
            text = letters.removeprefix("=") if letters else _next(name, words)
            said[option.dest] = (text, name)
            break
        if letters.startswith("="):
            raise UsageError(name, letters[1:], "it takes no value")
        _count(option, name, said)
    return found


def _count(option: Option, name: str, said: Said) -> None:
    times = int(said[option.dest][0]) if option.dest in said and option.kind == COUNT else 0
    said[option.dest] = (str(times + 1), name)


def _next(name: str, words: list[str]) -> str:
    """Take the next word as the value of option ``name``."""
    if not words:
        raise MisuseError(f"{name} needs a value after it")
    word = words[0]
    if _is_option(word) and not _is_number(word) and " " not in word:
        raise MisuseError(
            f"{name} needs a value after it, not the option {word} (a value with - is written {name}=-...)"
        )
    return words.pop(0)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _find(name: str, table: Sequence[Option]) -> Option:
    """Return the option with this name, in either spelling, or the only one that begins with it."""
    plain = name.replace("_", "-")
    matches = []
    for option in table:
        if option.name == plain:
            return option
        if option.name.startswith(plain):
            matches.append(option)
    if len(matches) > 1:
        # What is short for one option of torchrun must not become ambiguous by an addition of ours.
        theirs = [o for o in matches if o.origin == TORCHRUN]
        matches = theirs if len(theirs) == 1 else matches
    if len(matches) > 1:
        raise MisuseError(f"{name} may mean {' or '.join(o.name for o in matches)}: write more of it")
    if not matches:
        raise MisuseError(_unknown(name, table))
    return matches[0]


def _unknown(name: str, table: Sequence[Option]) -> str:
    import difflib

    if name.replace("_", "-") == "--use-env":
        return f"{name} is for python -m rallypoint.launch: here workers always read LOCAL_RANK, leave it out"
    # A single dash before a long name is the commonest slip.
    plain = name.lstrip("-").replace("_", "-")
    close = difflib.get_close_matches(plain, [o.name[2:] for o in table], n=1, cutoff=0.7)
    return f"there is no option {name}" + (f"; --{close[0]} is close" if close else "")


def _check(option: Option, text: str, where: str) -> None:
    """Refuse a value that the table alone shows to be wrong."""
    if option.choices and text not in option.choices:
        raise UsageError(where, text, "it is one of " + ", ".join(option.choices))
    if option.kind in (FLAG, COUNT):
        number = text.strip()
        if not (number.isascii() and number.isdigit()):
            raise UsageError(where, text, "it is 0 or 1" if option.kind == FLAG else "it is a number, 0 or more")
