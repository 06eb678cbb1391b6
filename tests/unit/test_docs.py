"""The pages: the reference is fresh, links lead somewhere, options and variables that are named exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rallypoint.cli.options import options
from rallypoint.cli.rallypoint import _STORE_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
FOREIGN = {"--check", "--no-deps", "--lr", "--n", "--x", "--y", "--local-rank", "--nproc"}
"""Options of ruff, pip and made-up scripts; what the legacy form gives to a script; an abbreviation of ours."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code(text: str) -> str:
    """What stands in code: between backticks, in fences, and indented by four."""
    fences = re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    text = re.sub(r"(?ms)^```\w*\n.*?^```", "", text)
    return "\n".join([*fences, *re.findall(r"`([^`]+)`", text), *re.findall(r"(?m)^    .*$", text)])


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub makes of the headings of a page."""
    titles = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def known_options() -> set[str]:
    """Every option of ours and of our scripts, in torchrun's two spellings."""
    found = {o.name for o in options(legacy=True)} | {o.name for o in _STORE_OPTIONS}
    for script in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")]:
        found |= set(re.findall(r'add_argument\((?:"-\w", )?"(--[a-z-]+)"', script.read_text()))
    return found | {"--" + o[2:].replace("-", "_") for o in found}


def test_reference_is_fresh():
    made = subprocess.run([sys.executable, ROOT / "scripts/reference", "-"], check=True, capture_output=True, text=True)
    assert (ROOT / "docs/reference.md").read_text() == made.stdout, "run scripts/reference"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page):
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    text = re.sub(r"`[^`]*`", "", text)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if fragment:
            assert fragment in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_exist(page):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", code(page.read_text())))
    assert named - known_options() - FOREIGN == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_variables_exist(page):
    named = set(re.findall(r"\bPET_[A-Z_]+[A-Z]", page.read_text()))
    assert named - {o.variable for o in options(legacy=True)} == set()


def test_every_option_has_a_row():
    rows = set(re.findall(r"(?m)^\| `(--[a-z-]+)", (ROOT / "docs/options.md").read_text()))
    assert {o.name for o in options(legacy=True)} == rows


def test_every_page_is_in_the_index():
    named = set(re.findall(r"\(([a-z-]+\.md)\)", (ROOT / "docs/index.md").read_text()))
    assert named == {page.name for page in ROOT.glob("docs/*.md")} - {"index.md"}


@pytest.mark.parametrize("command", ["scripts/main-job", "scripts/test"])
def test_readme_commands_can_be_run(command):
    assert f"    {command} " in (ROOT / "README.md").read_text()
    assert os.access(ROOT / command, os.X_OK)


def test_the_tests_packages_are_named():
    """README names what .ci/run and scripts/venv need of the distribution."""
    readme = (ROOT / "README.md").read_text()
    for package in ("python3-venv", "iproute2", "nftables", "etcd-server", "openssl"):
        assert package in readme
        assert package in (ROOT / ".ci/run").read_text() + (ROOT / "scripts/venv").read_text()


def test_every_test_that_the_faults_name_exists():
    there = {n for p in ROOT.glob("tests/**/*.py") for n in re.findall(r"(?m)^def (test_\w+)", p.read_text())}
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/faults.md").read_text()))
    assert named and named - there == set()
