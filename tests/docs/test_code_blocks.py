"""Every code block of README and manual runs as it is printed, and the output that is shown is the output."""

import re

import pytest
from code_blocks import NOT_CODE, RUN, Runner, blocks_of, compare, libraries_of, pages, read
from furnished import CHECKS, furnish
from libraries import needed

from regime_proto.cli.main import main

BLOCKS = {page: blocks_of(page) for page in pages()}


def cases():
    for page, blocks in BLOCKS.items():
        marks = [pytest.mark.libraries] if libraries_of(page) else []
        for block in blocks:
            if block.language not in NOT_CODE:
                yield pytest.param(page, block, id=f"{page}:{block.line}", marks=marks)


@pytest.fixture(scope="module")
def runner(request, tmp_path_factory):
    """The runner of a page, in a folder that holds what the page speaks of."""
    page = request.param
    for name in libraries_of(page):
        needed(name)
    if "jax2onnx" in libraries_of(page):
        request.getfixturevalue("jax_exports")
    folder = tmp_path_factory.mktemp("page")
    return Runner(folder, furnish(page, folder))


@pytest.mark.parametrize(("runner", "block"), list(cases()), indirect=["runner"], scope="module")
def test_a_block_runs(runner, block):
    blocks = BLOCKS[block.page]
    printed = runner.run_to(blocks, block)
    if block.language == "text" and not block.not_run:
        compare(printed, block.text)
    if block.page in CHECKS and block.language in ("sh", "python") and not block.not_run:
        CHECKS[block.page](runner.folder)


def test_every_block_is_run_or_says_why_not():
    assert sum(map(len, BLOCKS.values())) >= 60
    for page, blocks in BLOCKS.items():
        fences = re.findall(r"^ *```(.?)", read(page), re.MULTILINE)
        # Fences that the pattern misses would not be run; directives begin with a brace.
        assert 2 * (len(blocks) + fences.count("{")) == len(fences), page
        for block in blocks:
            where = f"{page}:{block.line}"
            assert block.language in (*RUN, *NOT_CODE), f"{where}: nothing runs {block.language!r}"
            if block.file.endswith(".py"):
                stem = block.file.removesuffix(".py").replace("/", ".")
                others = "".join(other.text for other in blocks if other is not block and not other.not_run)
                assert re.search(rf"\b{stem}\b", others.replace("/", ".")), f"{where}: nothing uses {block.file}"


def test_every_command_is_shown():
    shown = "".join(block.text for blocks in BLOCKS.values() for block in blocks)
    for name in main.commands:
        assert re.search(rf"\bregime {name}\b|make {name}\b", shown), name


def test_marks_are_those_of_blocks():
    """A mark that no block follows marks nothing."""
    for page, blocks in BLOCKS.items():
        assert read(page).count("<!-- not run:") == sum(bool(block.not_run) for block in blocks), page
