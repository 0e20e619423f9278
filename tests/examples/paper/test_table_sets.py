"""Adult, Breast Cancer, HAR and MNIST in the files that they are published in, whole and damaged."""

import gzip

import numpy as np
import pytest

from regime_proto.examples.paper.data.sets import held_out, load
from regime_proto.schema.errors import RegimeError

PERSON = (
    "39, {work}, 77516, {school}, 13, Never-married, Sales, Not-in-family, White, {sex}, 2174, 0, {hours}, {land}, "
    "{pay}"
)


def adult(folder):
    def person(pay, **changes):
        said = {"work": "Private", "school": "Bachelors", "sex": "Male", "hours": 40, "land": "Cuba"} | changes
        return PERSON.format(pay=pay, **said)

    train = [
        person("<=50K"),
        person(">50K", sex="Female", hours=20),
        person("<=50K", work="?"),
        person(">50K", land="India"),
    ]
    (folder / "adult.data").write_text("\n".join(train) + "\n")
    test = ["|1x3 Cross validator", person("<=50K.", school="11th"), person(">50K.", land="?")]
    (folder / "adult.test").write_text("\n".join(test) + "\n")


def breast_cancer(folder):
    draw = np.random.default_rng(0).random((20, 30))
    lines = [f"{number},{'MB'[number % 2]},{','.join(map(str, row))}" for number, row in enumerate(draw)]
    (folder / "wdbc.data").write_text("\n".join(lines))


def har(folder):
    root = folder / "UCI HAR Dataset"
    for part, count in (("train", 6), ("test", 3)):
        (root / part).mkdir(parents=True)
        np.savetxt(root / part / f"X_{part}.txt", np.random.default_rng(count).random((count, 561)))
        np.savetxt(root / part / f"y_{part}.txt", np.arange(count) % 6 + 1, fmt="%d")


def mnist(folder):
    for part, count in (("train", 10), ("t10k", 5)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        head = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in pixels.shape)
        content = gzip.compress(head + pixels.tobytes())
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(content)
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(index % 10 for index in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def test_adult_has_its_complete_rows_and_official_split(tmp_path):
    adult(tmp_path)
    found = load("Adult", tmp_path)
    assert found.stands_for is None
    assert found.train["labels"].tolist() == [0, 1, 1]
    assert found.validation["labels"].tolist() == [0]
    # Six numbers; of the categories those that occur: 1 work, 2 schools, 1, 1, 1, 1, 2 sexes, 2 lands.
    assert found.facts["features"] == 6 + 1 + 2 + 1 + 1 + 1 + 1 + 2 + 2
    hours = found.train["x"][:, 5]
    np.testing.assert_allclose([hours.mean(), hours.std()], [0, 1], atol=1e-6)
    # Equal in all training rows.
    assert not found.train["x"][:, 0].any()


def test_breast_cancer_is_held_out_by_class(tmp_path):
    breast_cancer(tmp_path)
    found = load("Breast Cancer", tmp_path)
    assert sorted(found.validation["labels"].tolist()) == [0, 0, 1, 1]
    assert len(found.train["labels"]) == 16
    # 1 is benign.
    assert found.classes == 2


def test_har_and_mnist_have_their_official_split(tmp_path):
    har(tmp_path)
    mnist(tmp_path)
    found = load("HAR", tmp_path)
    assert found.train["labels"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.validation["x"].shape == (3, 561)
    digits = load("MNIST", tmp_path)
    assert digits.train["x"].shape == (10, 1, 28, 28)
    batch = digits.batch(digits.train, np.arange(10))
    np.testing.assert_allclose([float(batch["x"].mean()), float(batch["x"].std(correction=0))], [0, 1], atol=1e-5)
    assert digits.batch(digits.validation, np.array([3]))["labels"].tolist() == [3]


DAMAGES = {
    "MNIST": ("train-images-idx3-ubyte.gz", mnist),
    "HAR": ("UCI HAR Dataset/train/X_train.txt", har),
    "Adult": ("adult.data", adult),
    "Breast Cancer": ("wdbc.data", breast_cancer),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("damage", ["cut off", "empty", "noise", "missing"])
def test_a_damaged_file_is_one_line(name, damage, tmp_path):
    file, write = DAMAGES[name]
    write(tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        spoiled = {
            "cut off": content[: content.rfind(b"\n", 0, len(content) * 4 // 5) + 30],
            "empty": b"",
            "noise": bytes(range(256)) * 9,
        }
        path.write_bytes(spoiled[damage])
    with pytest.raises(RegimeError) as caught:
        load(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_each_class_the_same_share_is_held_out():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    train, validation = held_out(labels)
    assert np.bincount(labels[validation]).tolist() == [10, 6, 4]
    assert sorted([*train, *validation]) == list(range(100))
    assert held_out(labels)[1].tolist() == validation.tolist()
    assert held_out(labels, seed=1)[1].tolist() != validation.tolist()
