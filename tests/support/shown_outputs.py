"""Writes the outputs that README and manual show: runs the pages named, or all, and replaces what differs.

``python tests/support/shown_outputs.py docs/reading.md``. What a line ``…`` leaves out stays left out.
"""

import os
import sys
import tempfile
from difflib import SequenceMatcher
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("REGIME_TRUST_PROGRAMS", "1")

from code_blocks import CUT, Runner, blocks_of, compare, libraries_of, pages, read, without_numbers
from folders import ROOT
from furnished import furnish


def as_shown(found, shown):
    """Return an output as a page shows it: without the lines that its ``…`` stands for."""
    lines = [line.rstrip() for line in found.strip().splitlines()]
    if CUT not in (line.strip() for line in shown.splitlines()):
        return lines
    parts = [part.strip("\n").splitlines() for part in f"\n{shown}\n".split(f"\n{CUT}\n")]
    kept, start = [], 0
    for number, part in enumerate(parts):
        begin = start if number == 0 else nearest(lines, part, start)
        start = begin + len(part)
        kept.append(lines[begin:start])
    return "\n".join(f"\n{CUT}\n".join("\n".join(part) for part in kept).splitlines()).splitlines()


def nearest(lines, part, start):
    """Return where the lines begin that resemble a part most."""
    wanted = "\n".join(without_numbers("\n".join(part)))

    def likeness(begin):
        found = "\n".join(without_numbers("\n".join(lines[begin : begin + len(part)])))
        return SequenceMatcher(None, found, wanted, autojunk=False).ratio()

    return max(range(start, max(start, len(lines) - len(part)) + 1), key=likeness)


def renew(page):
    """Run a page and replace the outputs that are no longer what is printed; return how many."""
    blocks = blocks_of(page)
    if not any(block.language == "text" for block in blocks):
        return 0
    folder = Path(tempfile.mkdtemp(prefix="regime-page-"))
    runner = Runner(folder, furnish(page, folder))
    text, replaced = read(page), 0
    for block in blocks:
        printed = runner.run_to(blocks, block)
        if block.language != "text" or block.not_run:
            continue
        try:
            compare(printed, block.text)
        except AssertionError:
            new = "".join(f"{line}\n" for line in as_shown(printed, block.text))
            text = text.replace(f"```text\n{block.text}```", f"```text\n{new}```", 1)
            replaced += 1
    (ROOT / page).write_text(text, encoding="utf-8")
    return replaced


if __name__ == "__main__":
    for name in sys.argv[1:] or [page for page in pages() if not libraries_of(page)]:
        sys.stdout.write(f"{name}: {renew(name)} outputs replaced\n")
