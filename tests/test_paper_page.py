"""The page of the paper's table tells what the results beside it hold."""

from paper_page import FOLDER, PAGE, found, with_tables

from regime_proto.examples.paper.rows import ROWS


def test_its_tables_are_those_of_the_results():
    text = PAGE.read_text(encoding="utf-8")
    assert with_tables(text) == text


def test_every_row_was_trained():
    lines = found()
    assert {line.row.name for line in lines} == {row.name for row in ROWS}
    for line in lines:
        for outcome in line.outcomes:
            # To the end, or some hundred updates of a larger row.
            assert outcome.settings.steps is None or outcome.steps >= 200
            assert outcome.auc_w is not None
            assert outcome.made_with["torch"]


def test_its_figure_is_there():
    assert (FOLDER / "study.png").stat().st_size > 20_000
