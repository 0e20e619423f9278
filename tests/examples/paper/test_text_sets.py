"""Texts in the files that their data sets are published in, whole and damaged."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from regime_proto.examples.paper.data import arrow_files, words
from regime_proto.examples.paper.data.sets import IGNORED, load, source_of
from regime_proto.examples.paper.data.squad import _gaps
from regime_proto.examples.paper.data.words import END, MASK, PAD, START, UNKNOWN, Windows, Words, padded
from regime_proto.schema.errors import RegimeError

SENTENCES = [("a film to love", 1), ("a film  to  hate !", 0), ("love love love", 1)]
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Tides",
            "paragraphs": [
                {
                    "context": "The moon moves the sea twice a day.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What moves the sea?",
                            "answers": [{"text": "The moon", "answer_start": 0}, {"text": "moon", "answer_start": 4}],
                        },
                        {"id": "2", "question": "Is it blue?", "answers": []},
                    ],
                }
            ],
        }
    ],
}


def sst2(folder, header="sentence\tlabel", rows=SENTENCES):
    for name in ("train", "dev"):
        lines = [header, *(f"{text}\t{label}" for text, label in rows)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def ag_news(folder, text='"3","Oil, again","Prices ""rise"", they say"\n"1","Peace","in the end"\n'):
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")


def squad(folder, content=SQUAD):
    for name in ("train", "dev"):
        (folder / f"{name}-v1.1.json").write_text(json.dumps(content), encoding="utf-8")


def wikitext(folder, suffix="tokens", text=" \n = Tides = \n \n The <unk> sea @-@ moves , and moves . \n" * 20):
    for name in ("train", "valid"):
        (folder / f"wiki.{name}.{suffix}").write_text(text, encoding="utf-8")


def saved(folder, **splits):
    """Save tables as `save_to_disk` of Hugging Face does, in two files each."""
    for split, columns in splits.items():
        (folder / split).mkdir()
        table = pa.table(columns)
        for at, part in enumerate((table.slice(0, 1), table.slice(1))):
            name = f"data-{at:05}-of-00002.arrow"
            with pa.OSFile(str(folder / split / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(part)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


def decoded(names, part, argument, row):
    """Return the words of a sample, given the word of each number."""
    numbers = part[argument][np.array([row])][0]
    return [names[number] for number in numbers.tolist() if number != PAD]


# ---- words


def test_the_commonest_words_have_numbers():
    known = Words(["b a a", "a b c"], size=7)
    assert len(known) == 7
    assert known.encode("A b c <mask> <unk>") == [5, 6, UNKNOWN, MASK, UNKNOWN]


def test_numbers_do_not_depend_on_the_order_of_equally_common_words():
    assert Words(["x y", "z"]).numbers == Words(["z y", "x"]).numbers


def test_a_text_is_split_into_words_and_signs():
    assert words.split("It's 1,000 — said O’Neill_ Jr.") == [
        "it's", "1", ",", "000", "—", "said", "o’neill", "_", "jr", ".",
    ]  # fmt: skip
    assert words.split("a @-@ b <unk> \x85 \u2028") == ["a", "@-@", "b", "<unk>"]


def test_rows_are_filled_up_and_cut_off():
    assert padded([[1, 2, 3], [], [4]], 2).tolist() == [[1, 2], [PAD, PAD], [4, PAD]]


@pytest.mark.parametrize("count", [5, 8, 9, 10, 13])
def test_windows_predict_the_token_that_follows(count):
    stream = np.arange(count, dtype=np.int32)
    inputs, labels = Windows(stream, 4), Windows(stream, 4, shift=1)
    assert len(inputs) == len(labels) == (count - 1) // 4
    every = np.arange(len(inputs))
    np.testing.assert_array_equal(inputs[every] + 1, labels[every])
    assert inputs[every].dtype == np.int64
    assert inputs[every].ravel().tolist() == list(range(4 * len(inputs)))


# ---- whole files


def test_sst2_of_glue(tmp_path):
    sst2(tmp_path)
    data = load("SST-2", tmp_path)
    assert data.train["labels"].tolist() == [1, 0, 1]
    ids, mask = data.train["input_ids"], data.train["attention_mask"]
    assert ids.shape == (3, 64)
    assert mask.sum(axis=1).tolist() == [5, 6, 4]
    # "love" is the commonest word.
    assert ids[2, :5].tolist() == [START, 5, 5, 5, PAD]
    assert data.facts == {"tokens": 64, "vocabulary": 5 + 6}


def test_ag_news_with_its_quotes(tmp_path):
    ag_news(tmp_path)
    data = load("AG News", tmp_path)
    assert data.train["labels"].tolist() == [2, 0]
    assert data.train["attention_mask"].sum(axis=1).tolist() == [1 + 3 + 7, 1 + 4]
    assert data.classes == 4


def test_squad_gives_the_answer_token_by_token(tmp_path):
    squad(tmp_path)
    data = load("SQuAD", tmp_path)
    # A question without an answer is left out.
    assert len(data.train["labels"]) == 1
    known = Words(["The moon moves the sea twice a day.", "What moves the sea?"])
    names = {number: word for word, number in known.numbers.items()}
    assert decoded(names, data.train, "input_ids", 0) == [
        "what", "moves", "the", "sea", "?", "<end>", "the", "moon", "moves", "the", "sea", "twice", "a", "day", ".",
    ]  # fmt: skip
    labels = data.train["labels"][0]
    assert [names[number] for number in labels[:3].tolist()] == ["the", "moon", "<end>"]
    assert (labels[3:] == IGNORED).all()
    given = data.train["decoder_input_ids"][0]
    assert given[:3].tolist() == [PAD, *labels[:2].tolist()]
    assert data.classes == data.facts["vocabulary"] == len(names)


@pytest.mark.parametrize("suffix", ["tokens", "raw"])
def test_wikitext_is_cut_into_windows(tmp_path, suffix):
    wikitext(tmp_path, suffix)
    data = load("WikiText", tmp_path)
    assert data.score == "perplexity"
    # Two lines of 3 and 9 words with their ends, twenty times.
    assert len(data.train["labels"]) == (20 * 14 - 1) // 128
    first = data.train["input_ids"][np.array([0])][0]
    assert first[5] == UNKNOWN
    assert first[3] == END
    assert data.train["labels"][np.array([1])][0, 0] == data.train["input_ids"][np.array([1])][0, 1]


def test_sets_of_hugging_face(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    texts, labels = [text for text, _ in SENTENCES], [label for _, label in SENTENCES]
    saved(tmp_path / "a", train={"sentence": texts, "label": labels}, validation={"sentence": texts, "label": labels})
    sst2(tmp_path)
    assert (
        load("SST-2", tmp_path / "a").train["input_ids"].tolist() == load("SST-2", tmp_path).train["input_ids"].tolist()
    )

    saved(tmp_path / "b", train={"text": texts, "label": labels}, test={"text": texts, "label": [3, 2, 0]})
    assert load("AG News", tmp_path / "b").validation["labels"].tolist() == [3, 2, 0]

    answers = [{"text": ["The moon"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    asked = {"context": ["The moon moves."] * 2, "question": ["What?"] * 2, "answers": answers}
    saved(tmp_path / "c", train=asked, validation=asked)
    assert len(load("SQuAD", tmp_path / "c").train["labels"]) == 1

    for split in ("train", "validation"):
        for at in range(2):
            table = pa.table({"text": ["", " The sea moves , and moves . \n"] * 20})
            parquet.write_table(table, tmp_path / "d" / f"{split}-{at:05}-of-00002.parquet")
    assert len(load("WikiText", tmp_path / "d").train["labels"]) == (2 * 20 * 8 - 1) // 128


def test_gaps_are_words_of_the_context():
    text = "The quick brown fox runs over the lazy dogs today. " * 20
    found = list(_gaps(text, {"quick", "brown"}, np.random.default_rng(0)))
    assert len(found) >= 2
    for one in found:
        assert one.answer in ("quick", "brown")
        whole = one.question.replace("<mask>", one.answer)
        assert "<mask>" in one.question
        assert whole in one.context
        assert len(one.context.split()) <= 90


# ---- damaged and hostile ones


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([("no label", "x")], r"train\.tsv: a label is 'x', expected a number"),
        ([("two", "1\t1")], r"train\.tsv: line 2 has 3 columns, expected 2; it is damaged or cut off"),
        ([("large", "2")], "class 2, counted from 0, expected 0 to 1"),
        ([("large", "9" * 5000)], "a label is '99999999999999999999', expected a number"),
        ([("minus", "-1")], "a label is '-1', expected a number"),
    ],
)
def test_rows_of_something_else(tmp_path, rows, match):
    sst2(tmp_path, rows=rows)
    with pytest.raises(RegimeError, match=match):
        load("SST-2", tmp_path)


def test_another_header(tmp_path):
    sst2(tmp_path, header="text\tlabel")
    with pytest.raises(RegimeError, match=r"train\.tsv: the first line is 'text\\tlabel', expected 'sentence\\tlabel'"):
        load("SST-2", tmp_path)


def test_a_header_without_rows(tmp_path):
    sst2(tmp_path, rows=[])
    with pytest.raises(RegimeError, match="no samples"):
        load("SST-2", tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('"3","Oil","Prices\n', r"train\.csv: line 1: unexpected end of data; it is damaged or cut off"),
        ('"3","Oil"\n', r"train\.csv: line 1 has 2 columns, expected 3"),
        ('"5","Oil","rises"\n', "class 4, counted from 0, expected 0 to 3"),
        ('"0","Oil","rises"\n', "class -1, counted from 0, expected 0 to 3"),
        ("\n\n", r"train\.csv: is empty"),
        ('"1","' + "x" * 200_000 + '","y"\n', r"train\.csv: line 1: field larger than field limit"),
    ],
)
def test_news_of_something_else(tmp_path, text, match):
    ag_news(tmp_path, text)
    with pytest.raises(RegimeError, match=match):
        load("AG News", tmp_path)


def test_another_encoding(tmp_path):
    ag_news(tmp_path)
    (tmp_path / "train.csv").write_bytes('"1","Café","x"\n'.encode("latin-1"))
    with pytest.raises(RegimeError, match=r"train\.csv: byte 8 is not UTF-8"):
        load("AG News", tmp_path)


def test_questions_that_are_cut_off(tmp_path):
    squad(tmp_path)
    whole = (tmp_path / "train-v1.1.json").read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "train-v1.1.json").write_bytes(whole[:size])
        with pytest.raises(RegimeError, match=r"train-v1\.1\.json: (no JSON|empty)"):
            load("SQuAD", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"data": 3},
        {"data": [{"paragraphs": [{"context": 1, "qas": [{"question": "?", "answers": [{"text": "x"}]}]}]}]},
        {"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "?"}]}]}]},
    ],
)
def test_json_of_another_form(tmp_path, content):
    squad(tmp_path, content)
    with pytest.raises(RegimeError, match=r"train-v1\.1\.json: not JSON in the format of SQuAD"):
        load("SQuAD", tmp_path)


def test_json_that_is_nested_without_end(tmp_path):
    squad(tmp_path)
    (tmp_path / "train-v1.1.json").write_text("[" * 200_000)
    with pytest.raises(RegimeError, match=r"train-v1\.1\.json: (no JSON|empty)"):
        load("SQuAD", tmp_path)


def test_no_answer_at_all(tmp_path):
    squad(tmp_path, {"data": []})
    with pytest.raises(RegimeError, match="no question with an answer"):
        load("SQuAD", tmp_path)


def test_too_short_a_text(tmp_path):
    wikitext(tmp_path, text="The sea moves .\n")
    with pytest.raises(RegimeError, match="a text of 5 words, expected more than 128"):
        load("WikiText", tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_table_that_is_cut_off(tmp_path, suffix):
    if suffix == "arrow":
        saved(tmp_path, train={"text": ["a b c"] * 50, "label": [1] * 50})
        path = tmp_path / "train" / "data-00000-of-00002.arrow"
    else:
        path = tmp_path / "train-00000-of-00001.parquet"
        parquet.write_table(pa.table({"text": ["a b c"] * 50, "label": [1] * 50}), path)
    whole = path.read_bytes()
    for size in (0, 2, len(whole) // 2, len(whole) - 12):
        path.write_bytes(whole[:size])
        with pytest.raises(RegimeError, match=rf"{path.name}: cannot be read as {suffix}") as caught:
            arrow_files.read_split(tmp_path, ["train"], [["text"]])
        assert "\n" not in str(caught.value)


def test_a_missing_file_of_several(tmp_path):
    for at in (0, 2):
        parquet.write_table(pa.table({"text": ["a"]}), tmp_path / f"train-{at:05}-of-00003.parquet")
    with pytest.raises(RegimeError, match="2 files of 00003 that train-00000-of-00003"):
        load("WikiText", tmp_path)


def test_two_sets_in_one_folder(tmp_path):
    for name in ("wikitext-2-raw-v1", "wikitext-103-raw-v1"):
        (tmp_path / name).mkdir()
        parquet.write_table(pa.table({"text": ["a"]}), tmp_path / name / "train-00000-of-00001.parquet")
    with pytest.raises(RegimeError, match=r"train files in .*wikitext-103-raw-v1 and in .*wikitext-2-raw-v1; give"):
        load("WikiText", tmp_path)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"words": ["a"], "label": [1]}, "no column sentence or text; it has words, label"),
        ({"text": [1], "label": [1]}, "a column of int64, expected texts"),
        ({"text": ["a"], "label": ["b"]}, "a column of string, expected whole numbers"),
        ({"text": ["a", None], "label": [1, 0]}, "the column text lacks 1 values"),
        (
            {"text": ["a"], "label": pa.array([2**64 - 1], pa.uint64())},
            "class 18446744073709551615, counted from 0, expected 0 to 1",
        ),
        ({"text": ["a"], "label": [-1]}, "class -1, counted from 0, expected 0 to 1"),
    ],
)
def test_other_columns(tmp_path, columns, match):
    for split in ("train", "validation"):
        parquet.write_table(pa.table(columns), tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(RegimeError, match=match):
        load("SST-2", tmp_path)


def test_answers_of_another_form(tmp_path):
    asked = {"context": ["x"], "question": ["y"], "answers": [3]}
    parquet.write_table(pa.table(asked), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(RegimeError, match="answers without a list of texts"):
        load("SQuAD", tmp_path)


@pytest.mark.parametrize("name", ["SST-2", "AG News", "SQuAD", "WikiText"])
def test_an_empty_folder_is_told_what_is_expected(tmp_path, name):
    with pytest.raises(RegimeError) as caught:
        load(name, tmp_path)
    assert source_of(name).LAYOUT in str(caught.value)
