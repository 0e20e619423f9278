"""What values and progress bars show in a real kernel of Jupyter."""

import pytest

import regime_proto

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

PROGRESS = """
import regime_proto
with regime_proto.progress_bar("count <b>") as progress:
    for done in range(1000):
        progress(done + 1, 1000)
"""
RESULT = "result = regime_proto.analyze('run.h5', resamples=0)\nresult"
PLOT = "result.plot()"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of each cell. Read only."""
    folder = tmp_path_factory.mktemp("notebook")
    regime_proto.synthetic.trajectory(steps=30, units=8, path=folder / "run.h5")
    cells = [nbformat.v4.new_code_cell(code) for code in (PROGRESS, RESULT, PLOT)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [cell.outputs for cell in notebook.cells]


def test_a_progress_bar_is_one_output_that_ends_full(outputs):
    [shown] = outputs[0]
    assert shown.data["text/plain"] == "count <b> 1000 of 1000"
    assert '<progress value="1000" max="1000"' in shown.data["text/html"]
    assert "count &lt;b&gt;" in shown.data["text/html"]


def test_a_result_is_shown_as_html_and_as_text(outputs):
    [shown] = outputs[1]
    assert shown.data["text/html"].startswith("<div")
    assert shown.data["text/plain"].startswith("run.h5\n31 observations")


def test_a_plot_is_a_picture_without_pyplot(outputs):
    [shown] = outputs[2]
    assert shown.data["image/png"].startswith("iVBORw0KGgo")
