"""Workflows of GitHub have the least permissions, and run what the repository has."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
# What a job may be allowed beyond reading the repository, by workflow and job.
ALLOWED = {
    ("docs.yml", "publish"): {"id-token": "write", "pages": "write"},
    ("publish.yml", "publish"): {"attestations": "write", "contents": "read", "id-token": "write"},
}
JOBS = [(path, name, job) for path in FILES for name, job in yaml.safe_load(path.read_text())["jobs"].items()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_grants_nothing_by_default(path):
    assert yaml.safe_load(path.read_text())["permissions"] == {}


@pytest.mark.parametrize(("path", "name", "job"), JOBS, ids=lambda value: getattr(value, "name", str(value)[:10]))
def test_a_job_has_the_permissions_it_needs_and_an_end(path, name, job):
    assert job["permissions"] == ALLOWED.get((path.name, name), {"contents": "read"})
    assert job["timeout-minutes"] <= 150


@pytest.mark.parametrize(("path", "name", "job"), JOBS, ids=lambda value: getattr(value, "name", str(value)[:10]))
def test_actions_are_pinned_and_checkouts_keep_no_credentials(path, name, job):
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"(actions|pypa)/[\w-]+@(v\d+|release/v\d+|[0-9a-f]{40})", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_sessions_that_workflows_run_exist():
    sessions = set(re.findall(r"^def ([a-z]\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    for path in [*FILES, ROOT / "Makefile"]:
        for names in re.findall(r"nox --session ([^\n]+)", path.read_text()):
            run = {name.strip('"').split("-")[0] for name in names.split(" -- ")[0].split()}
            assert run <= sessions, path.name


def test_forms_of_issues_say_what_they_ask():
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= set(form)
            assert len({field["id"] for field in form["body"] if "id" in field}) >= 3
