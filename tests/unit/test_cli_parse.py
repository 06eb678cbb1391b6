"""Reading the command line: spellings, abbreviations, where options end, and the script's own arguments."""

import pytest
from hypothesis import given as given_
from hypothesis import strategies as st

from rallypoint.cli.option import ACTION, COUNT, FLAG, VALUE
from rallypoint.cli.options import options
from rallypoint.cli.parse import MisuseError, parse
from rallypoint.model.errors import UsageError

TABLE = options(legacy=True)


def read(*argv, environ=None, legacy=False):
    return parse(argv, environ or {}, legacy)


@pytest.mark.parametrize(
    ("argv", "dest", "text", "where"),
    [
        (["--nnodes", "2", "s.py"], "nnodes", "2", "--nnodes"),
        (["--nnodes=2:4", "s.py"], "nnodes", "2:4", "--nnodes"),
        (["--nproc_per_node", "2", "s.py"], "nproc_per_node", "2", "--nproc_per_node"),
        (["--nproc_per-node=2", "s.py"], "nproc_per_node", "2", "--nproc_per-node"),
        (["--nproc", "2", "s.py"], "nproc_per_node", "2", "--nproc"),
        (["--rdzv_b", "c10d", "s.py"], "rdzv_backend", "c10d", "--rdzv_b"),
        (["-r", "3", "s.py"], "redirects", "3", "-r"),
        (["-r3", "s.py"], "redirects", "3", "-r"),
        (["-r=3", "s.py"], "redirects", "3", "-r"),
        (["-mr3", "pkg"], "redirects", "3", "-r"),
        (["-mr3", "pkg"], "module", "1", "-m"),
        (["--role", "-1", "s.py"], "role", "-1", "--role"),
        (["--role=-x", "s.py"], "role", "-x", "--role"),
        (["--role=", "s.py"], "role", "", "--role"),
        (["--role", "-a b", "s.py"], "role", "-a b", "--role"),
        (["--role", "-", "s.py"], "role", "-", "--role"),
        (["--rdzv-conf", "a=1,b=2", "s.py"], "rdzv_conf", "a=1,b=2", "--rdzv-conf"),
        (["--rdzv-conf=a=1", "s.py"], "rdzv_conf", "a=1", "--rdzv-conf"),
        (["--nnodes", "2", "--nnodes", "3", "s.py"], "nnodes", "3", "--nnodes"),
        (["-vv", "s.py"], "verbose", "2", "-v"),
        (["-v", "--verbose", "s.py"], "verbose", "2", "--verbose"),
        (["--stand", "s.py"], "standalone", "1", "--stand"),
        # Short for one option of torchrun, and for one of ours too: torchrun's meaning stays.
        (["--v", "s.py"], "virtual_local_rank", "1", "--v"),
        (["--log-d", "x", "s.py"], "log_dir", "x", "--log-d"),
        (["--logs", "inherit", "s.py"], "logs", "inherit", "--logs"),
    ],
)
def test_spellings(argv, dest, text, where):
    given = read(*argv)
    assert (given.text(dest), given.where(dest), given.said(dest)) == (text, where, True)


def test_what_is_not_said_has_its_default_and_its_plain_name():
    given = read("s.py")
    assert (given.text("nnodes"), given.where("nnodes"), given.said("nnodes")) == ("1:1", "--nnodes", False)
    assert (given.flag("standalone"), given.count("verbose")) == (False, 0)


@pytest.mark.parametrize(
    ("argv", "program", "arguments"),
    [
        (["s.py"], "s.py", ()),
        (["s.py", "--help"], "s.py", ("--help",)),
        (["s.py", "--n", "3"], "s.py", ("--n", "3")),  # torchrun: "ambiguous option"
        (["s.py", "--", "a"], "s.py", ("--", "a")),  # torchrun loses the "--"
        (["s.py", "--nnodes", "x", "-m", "--version"], "s.py", ("--nnodes", "x", "-m", "--version")),
        (["s.py", "", " ", "a b"], "s.py", ("", " ", "a b")),
        (["--", "s.py", "--", "a"], "s.py", ("--", "a")),
        (["--standalone", "--", "-s.py", "a"], "-s.py", ("a",)),
        (["-m", "pkg.mod", "-m", "x"], "pkg.mod", ("-m", "x")),
        (["--no-python", "-v", "bash", "-c", "exit 3"], "bash", ("-c", "exit 3")),
        (["-", "a"], "-", ("a",)),
    ],
)
def test_the_options_end_at_the_script(argv, program, arguments):
    given = read(*argv)
    assert (given.program, given.arguments) == (program, arguments)


WORDS = st.one_of(
    st.text(),
    st.sampled_from(["--", "-", "--help", "-h", "-m", "--nnodes", "--nnodes=x", "--n", "-r", "-v", "--use-env", "$$"]),
)
LAUNCHER = st.lists(
    st.sampled_from([("--nnodes", "2"), ("--nproc=3",), ("-m",), ("-v",), ("-r3",), ("--role", "-1"), ("--stand",)])
)


@given_(LAUNCHER, st.booleans(), st.lists(WORDS))
def test_the_scripts_arguments_survive_untouched(launcher, dashes, words):
    argv = [word for option in launcher for word in option] + ["--"] * dashes + ["train.py", *words]
    given = read(*argv)
    assert (given.program, given.arguments) == ("train.py", tuple(words))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "no program is named: after the options comes a script (or module, or command)"),
        (["--standalone"], "no program is named: after the options comes a script (or module, or command)"),
        (["--"], "no program is named: after the options comes a script (or module, or command)"),
        (["--nnodez", "2", "s.py"], "there is no option --nnodez; --nnodes is close"),
        (["-nnodes", "2", "s.py"], "there is no option -nnodes; --nnodes is close"),
        (["-x", "s.py"], "there is no option -x"),
        (["--n", "2", "s.py"], "--n may mean --no-python or --nnodes or --nproc-per-node or --node-rank or "
         "--notice-signal or --notice-grace or --numa-binding: write more of it"),
        (["--nnodes"], "--nnodes needs a value after it"),
        (["--role", "--standalone", "s.py"], "--role needs a value after it, not the option --standalone "
         "(a value with - is written --role=-...)"),
        (["--role", "--", "s.py"], "--role needs a value after it, not the option -- "
         "(a value with - is written --role=-...)"),
        (["-r"], "-r needs a value after it"),
        (["--standalone=1", "s.py"], "--standalone: '1' is not usable: it takes no value"),
        (["-m=pkg", "s.py"], "-m: 'pkg' is not usable: it takes no value"),
        (["-mpkg", "s.py"], "there is no option -mpkg"),
        (["--use-env", "s.py"], "--use-env is for python -m rallypoint.launch: here workers always read LOCAL_RANK, "
         "leave it out"),
        (["--start-method", "thread", "s.py"], "--start-method: 'thread' is not usable: it is one of spawn, fork, "
         "forkserver"),
        (["--log-format=xml", "s.py"], "--log-format: 'xml' is not usable: it is one of text, json"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told_in_one_sentence(argv, sentence):
    with pytest.raises(UsageError) as caught:
        read(*argv)
    assert str(caught.value) == sentence
    assert caught.value.exit_code == 2


def test_help_and_version_need_nothing_else_to_be_right():
    assert read("--help", "--nonsense").flag("help")
    assert read("--nnodes", "x", "-h").flag("help")
    assert read("--version").flag("version")
    assert read("--help", environ={"PET_START_METHOD": "wrong"}).flag("help")
    assert not read("s.py", "--help").flag("help")


def test_the_legacy_form_knows_use_env():
    assert read("--use_env", "s.py", legacy=True).flag("use_env")
    assert not read("s.py", legacy=True).flag("use_env")


@pytest.mark.parametrize("option", [o for o in TABLE if o.kind == VALUE], ids=lambda o: o.name)
def test_every_value_may_come_from_its_variable(option):
    text = option.choices[0] if option.choices else "value"
    given = read("s.py", environ={option.variable: text}, legacy=True)
    assert (given.text(option.dest), given.where(option.dest)) == (text, option.variable)
    other = option.choices[-1] if option.choices else "other"
    given = read(f"{option.name}={other}", "s.py", environ={option.variable: text}, legacy=True)
    assert (given.text(option.dest), given.where(option.dest)) == (other, option.name)
    assert not read("s.py", environ={option.variable: ""}, legacy=True).said(option.dest)


@pytest.mark.parametrize("option", [o for o in TABLE if o.kind == FLAG], ids=lambda o: o.name)
def test_every_flag_may_come_from_its_variable(option):
    def flag(*argv, value):
        return read(*argv, "s.py", environ={option.variable: value}, legacy=True).flag(option.dest)

    assert [flag(value=v) for v in ("0", "1", "2", "")] == [False, True, True, False]
    assert flag(option.name, value="0")
    with pytest.raises(UsageError) as caught:
        flag(value="yes")
    assert str(caught.value) == f"{option.variable}: 'yes' is not usable: it is 0 or 1"


def test_variables_of_counts_and_actions():
    assert read("s.py", environ={"PET_VERBOSE": "2"}).count("verbose") == 2
    assert {o.dest for o in TABLE if o.kind == COUNT} == {"verbose"}
    given = read("s.py", environ={f"PET_{o.dest.upper()}": "1" for o in TABLE if o.kind == ACTION})
    assert not given.flag("help") and not given.flag("version")


def test_names_in_the_table_are_unique():
    assert len({o.name for o in TABLE}) == len(TABLE)
    shorts = [o.short for o in TABLE if o.short]
    assert len(set(shorts)) == len(shorts)


def test_the_repr_tells_what_was_said():
    assert repr(read("--nnodes", "2", "s.py", "x")) == "<Given --nnodes=2 | s.py x>"
    assert "nnodes" in repr(MisuseError("no --nnodes"))
