"""Pages that are written from the code say what the code says."""

import tomllib

from deprecations_page import PATH as DEPRECATIONS
from deprecations_page import deprecations_page
from folders import ROOT
from sources_page import PATH, sources_page

from regime_proto.adapters.sources_table import SOURCES


def test_the_table_of_sources_is_that_of_the_adapters():
    assert PATH.read_text(encoding="utf-8") == sources_page(), "run make sources"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    adapters = project["entry-points"]["regime_proto.adapters"]
    assert {entry.adapter for entry in SOURCES} == set(adapters)
    assert {extra for entry in SOURCES for extra in entry.extras} <= set(project["optional-dependencies"])


def test_the_moved_import_paths_are_in_the_manual():
    assert DEPRECATIONS.read_text(encoding="utf-8") == deprecations_page(), "run make deprecations"
