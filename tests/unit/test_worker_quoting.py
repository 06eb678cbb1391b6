"""The hook's own JSON: it may import no json module, which could be the user's."""

import ast
import json

from hypothesis import given
from hypothesis import strategies as st

from rallypoint.worker import HOOK


def functions():
    """Run the hook's definitions without its last three statements, which would install it here."""
    with open(HOOK + "/sitecustomize.py") as file:
        tree = ast.parse(file.read())
    tree.body = [node for node in tree.body if not isinstance(node, ast.Expr)]
    space = {"__name__": "hook"}
    exec(compile(tree, "sitecustomize.py", "exec"), space)
    return space


SPACE = functions()
quoted, error_json = SPACE["quoted"], SPACE["error_json"]

texts = st.text(alphabet=st.characters(codec=None, categories=None))


@given(texts)
def test_a_json_reader_gets_the_text_back(text):
    read = json.loads(quoted(text, 1 << 20))
    assert read.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")


@given(texts, st.integers(16, 80))
def test_a_cut_text_keeps_both_ends_within_the_limit(text, limit):
    whole = quoted(text, 1 << 20)
    shown = quoted(text, limit)
    if len(whole) <= limit + 2:
        assert shown == whole
        return
    first, left_out, last = shown[1:-1].partition("\\n[... ")
    number, _, last = last.partition(" characters left out by rallypoint ...]\\n")
    assert left_out and whole.startswith('"' + first) and whole.endswith(last + '"')
    assert len(first) <= limit // 2 and len(last) <= limit // 2
    kept = len(json.loads(f'"{first}"')) + len(json.loads(f'"{last}"'))
    assert kept + int(number) == len(text) or "\\ud" in whole


def test_error_file_is_torchs():
    assert json.loads(error_json('A: "b"', "trace\n", 17)) == {
        "message": {"message": 'A: "b"', "extraInfo": {"py_callstack": "trace\n", "timestamp": "17"}}
    }
