"""Texts of the project avoid the phrases that readers stumbled over most."""

import ast
import io
import re
import tokenize

import pytest
from folders import ROOT

# A phrase, and what to write instead.
AVOIDED = {
    r"\b(is|are) told\b(?! apart)|\btold by\b": "is detected from, is reported",
    r"\bgone on\b|\bgo(es)? on (with|from|after)\b": "resume, continue",
    r"\bcounts? more\b": "overrides",
    r"\bwarned of\b": "causes a warning",
    r"\bwhich of them\b": "a noun as the subject",
    r"\bforeseen\b": "expected, estimated",
    r"\bat the begin\b": "at the start",
    r"\bof that choice\b": "the name of the option",
    r"\bthat (is|are) there\b|\b(is|are) there already\b": "exists, existing",
    r"\bit is not known\b": "unknown",
    r"\bin earnest\b": "in a real run",
    r"\bheld against\b": "compared with",
    r"\b(look|looks|say|says) whether\b": "check whether",
    r"\btells? of\b": "shows, reports",
    r"\bin place of\b": "instead of",
    r"\bstands? (in the|beside|behind)\b": "is in, appears in, next to",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\banew\b": "again",
    r"\bas (it|they) stands?\b": "unchanged, literally",
    r"\bso it is with\b": "the same applies to",
    r"\bat hand\b": "available",
    r"\b(another|other) \w+ than\b": "different from",
    r"(?-i:\bbeside\b)(?! :)": "next to",
    r"\banswered with\b": "causes the message",
    r"\bspoil(s|ed)\b": "corrupted",
    r"\brooms\b|\b(a|the) room (of|for|is)\b": "package",
    r"\blies there\b|\bwhat is there\b": "contents",
    r"\bseldom\b": "rarely",
}
PACKAGE = ("schema", "cli", "adapters", "examples", "regime_proto")
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
FILES = [
    *(path for folder in PACKAGE for suffix in ("py", "md") for path in sorted((ROOT / folder).rglob(f"*.{suffix}"))),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
    *(path for path in PAGES if path.exists()),
]


def texts(path):
    """Yield each text of a file with its line: strings and comments of Python, everything in Markdown."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        # A phrase may go over the end of a line.
        for match in re.finditer(r"(?:.+\n?)+", source):
            yield source.count("\n", 0, match.start()) + 1, match[0]
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def avoided(text):
    """Return each phrase of a text that is avoided, with what to write instead."""
    one_line = " ".join(text.split())
    return [
        f"{match[0]!r}: {instead}"
        for phrase, instead in AVOIDED.items()
        for match in re.finditer(phrase, one_line, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_avoids_them(path):
    found = [f"{path.relative_to(ROOT)}:{line}: {phrase}" for line, text in texts(path) for phrase in avoided(text)]
    assert found == []


def test_a_phrase_is_found_over_the_end_of_a_line(tmp_path):
    (tmp_path / "page.md").write_text("Two lines.\n\nAn option counts\nmore than a variable.\n", encoding="utf-8")
    (tmp_path / "module.py").write_text('"""Two writers\n    are told."""\n\nx = 1  # seldom\n', encoding="utf-8")
    assert [(line, *avoided(text)) for line, text in texts(tmp_path / "page.md")] == [
        (1,),
        (3, "'counts more': overrides"),
    ]
    assert [phrase.split(":")[0] for _, text in texts(tmp_path / "module.py") for phrase in avoided(text)] == [
        "'are told'",
        "'seldom'",
    ]
