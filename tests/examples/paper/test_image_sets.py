"""Images in the files that their data sets are published in, whole and damaged."""

import io
import os
import pickle
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from paper_sets import encoded
from PIL import Image
from pyarrow import parquet

from regime_proto.examples.paper.data.image_files import FileContent, ImageFiles
from regime_proto.examples.paper.data.sets import load, source_of
from regime_proto.schema.errors import RegimeError

PIXELS = 3072


@dataclass
class Encoded:
    content: bytes

    def __str__(self):
        return "here"

    def read(self):
        return self.content


def cifar100_binary(folder):
    draw = np.random.default_rng(0)
    for name, samples in (("train", 6), ("test", 4)):
        records = draw.integers(0, 256, (samples, 2 + PIXELS), dtype=np.uint8)
        # The coarse label is another one than the fine one.
        records[:, 0], records[:, 1] = 7, np.arange(samples) + 90
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def cifar100_python(folder, **changes):
    (folder / "cifar-100-python").mkdir()
    for name, samples in (("train", 6), ("test", 4)):
        content = {
            "data": np.full((samples, PIXELS), samples, np.uint8),
            "fine_labels": list(range(90, 90 + samples)),
            "coarse_labels": [7] * samples,
            **changes,
        }
        (folder / "cifar-100-python" / name).write_bytes(pickle.dumps(content, 2))


def tiny_imagenet(folder, classes=("n01443537", "n01629819")):
    root = folder / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(classes) + "\n")
    for at, name in enumerate(classes):
        (root / "train" / name / "images").mkdir(parents=True)
        for number in range(2):
            path = root / "train" / name / "images" / f"{name}_{number}.JPEG"
            path.write_bytes(encoded((64, 64), (60 + 100 * at,) * 3))
    lines = [f"val_{at}.JPEG\t{classes[1 - at]}\t0\t0\t44\t62\n" for at in range(2)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    for at in range(2):
        (root / "val" / "images" / f"val_{at}.JPEG").write_bytes(encoded((64, 64), (160 - 100 * at,) * 3))
    return root


def food101(folder, classes=("apple_pie", "waffles")):
    root = folder / "food-101"
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "classes.txt").write_text("\n".join(classes) + "\n")
    for part, numbers in (("train", (1, 2)), ("test", (3, 4))):
        (root / "meta" / f"{part}.txt").write_text("".join(f"{c}/{n}\n" for c in classes for n in numbers))
    for at, name in enumerate(classes):
        (root / "images" / name).mkdir(parents=True)
        for number in (1, 2, 3, 4):
            (root / "images" / name / f"{number}.jpg").write_bytes(encoded((300, 260), (60 + 100 * at,) * 3))
    return root


def table_of_images(labels, column="image", label="label", **size):
    cells = [{"bytes": encoded(color=(20 * number % 250, 0, 0), kind="PNG", **size), "path": None} for number in labels]
    return pa.table({column: cells, label: labels})


# ---- whole files


def test_cifar100_of_the_binary_version(tmp_path):
    cifar100_binary(tmp_path)
    data = load("CIFAR100", tmp_path)
    assert data.train["x"].shape == (6, 3, 32, 32)
    assert data.train["labels"].tolist() == [90, 91, 92, 93, 94, 95]
    assert data.validation["labels"].tolist() == [90, 91, 92, 93]
    assert (data.classes, data.title) == (100, "CIFAR100")
    record = np.frombuffer((tmp_path / "train.bin").read_bytes(), np.uint8)[2 + PIXELS + 2 :][:PIXELS]
    np.testing.assert_array_equal(data.train["x"][1].ravel(), record)


def test_cifar100_as_torchvision_keeps_it(tmp_path):
    cifar100_python(tmp_path)
    data = load("CIFAR100", tmp_path)
    assert data.train["labels"].tolist() == [90, 91, 92, 93, 94, 95]
    assert (data.validation["x"] == 4).all()


def test_cifar100_of_hugging_face(tmp_path):
    for split, labels in (("train", [3, 99]), ("test", [98])):
        table = table_of_images(labels, "img", "fine_label", size=(32, 32))
        parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    data = load("CIFAR100", tmp_path)
    assert data.train["x"].shape == (2, 3, 32, 32)
    assert data.train["labels"].tolist() == [3, 99]
    assert (data.train["x"][0, 0] == 60).all()


@pytest.mark.parametrize("version", ["binary", "python"])
def test_both_versions_of_cifar10(tmp_path, version):
    for at, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        images = np.full((2, PIXELS), at, np.uint8)
        if version == "binary":
            labels = np.array([[at], [9]], np.uint8)
            (tmp_path / f"{name}.bin").write_bytes(np.concatenate([labels, images], axis=1).tobytes())
        else:
            (tmp_path / name).write_bytes(pickle.dumps({"data": images, "labels": [at, 9]}, 2))
    data = load("CIFAR10", tmp_path)
    assert data.train["labels"].tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.validation["labels"].tolist() == [5, 9]
    assert data.train["x"][:, 2, 31, 31].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_tiny_imagenet_of_its_folders(tmp_path):
    tiny_imagenet(tmp_path)
    data = load("TinyImageNet", tmp_path)
    assert data.train["x"].shape == (4, 3, 64, 64)
    assert data.train["labels"].tolist() == [0, 0, 1, 1]
    assert data.validation["labels"].tolist() == [1, 0]
    # Each class has its own grey, in both parts.
    for part in (data.train, data.validation):
        grey = part["x"].mean(axis=(1, 2, 3))
        np.testing.assert_allclose(grey, 60 + 100 * part["labels"], atol=2)
    assert data.classes == 200


def test_food101_is_read_when_it_is_asked_for(tmp_path):
    root = food101(tmp_path)
    data = load("Food-101", tmp_path)
    assert data.facts == {"channels": 3, "image_size": 224}
    assert sorted(data.validation["labels"].tolist()) == [0, 0, 1, 1]
    batch = data.batch(data.train, np.array([3, 0]))
    assert batch["x"].shape == (2, 3, 224, 224)
    # Scaled by mean and deviation of two classes of equal size.
    np.testing.assert_allclose(batch["x"].mean(dim=(1, 2, 3)), [1, -1], atol=0.05)
    (root / "images" / "waffles" / "2.jpg").unlink()
    with pytest.raises(RegimeError, match=r"waffles/2\.jpg: cannot be read \(No such file"):
        data.batch(data.train, np.array([3]))


def test_images_saved_by_hugging_face(tmp_path):
    for split, labels in (("train", [5, 100]), ("validation", [7])):
        (tmp_path / split).mkdir()
        with pa.OSFile(str(tmp_path / split / "data-00000-of-00001.arrow"), "wb") as file:
            table = table_of_images(labels)
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
    data = load("Food-101", tmp_path)
    assert data.train["labels"].tolist() == [5, 100]
    assert data.train["x"][np.array([0])][0, :, 0, 0].tolist() == [100, 0, 0]


@pytest.mark.parametrize(("mode", "color"), [("L", 70), ("RGBA", (70, 70, 70, 255)), ("P", 3)])
def test_images_of_other_modes_become_red_green_and_blue(mode, color):
    image = ImageFiles([Encoded(encoded(mode=mode, color=color, kind="PNG"))], 4)[np.array([0])]
    assert image.shape == (1, 3, 4, 4)
    assert (image == image[0, 0, 0, 0]).all() or mode == "P"


def test_an_image_is_the_square_middle_of_its_file():
    picture = Image.new("RGB", (60, 20), (0, 0, 0))
    picture.paste((250, 250, 250), (20, 0, 40, 20))
    file = io.BytesIO()
    picture.save(file, "PNG")
    found = ImageFiles([Encoded(file.getvalue())], 10)[np.array([0])]
    # But for what the interpolation mixes at its edges.
    assert (found[..., 1:-1] == 250).all()


# ---- damaged and hostile ones


def test_a_binary_file_that_is_cut_off(tmp_path):
    cifar100_binary(tmp_path)
    os.truncate(tmp_path / "train.bin", 2 * (2 + PIXELS) + 10)
    with pytest.raises(RegimeError, match=r"train\.bin: 6158 bytes, expected a multiple of 3074; it is cut off"):
        load("CIFAR100", tmp_path)


def test_a_binary_file_of_cifar10_is_not_taken_for_cifar100(tmp_path):
    for name in ("train", "test"):
        # Its records are shorter; so many of them are a whole number of the other's.
        (tmp_path / f"{name}.bin").write_bytes(np.full(3074 * 3073, 200, np.uint8).tobytes())
    with pytest.raises(RegimeError, match=r"train\.bin: class 200, counted from 0, expected 0 to 99"):
        load("CIFAR100", tmp_path)


class Hostile:
    def __reduce__(self):
        return os.system, ("false",)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": Hostile()}, r"train: its pickle asks for posix\.system, which is not loaded"),
        ({"data": np.zeros((6, 10), np.uint8)}, "not as many bytes of 3072 for each label"),
        ({"data": np.zeros((6, PIXELS), np.float32)}, "not as many bytes of 3072 for each label"),
        ({"fine_labels": [1]}, "not as many bytes of 3072 for each label"),
        ({"fine_labels": ["a"] * 6}, "fine_labels are not all whole numbers"),
        ({"fine_labels": [10**30] * 6}, f"class {10**30}, counted from 0, expected 0 to 99"),
        ({"fine_labels": [100] * 6}, "class 100, counted from 0, expected 0 to 99"),
    ],
)
def test_a_pickle_of_something_else(tmp_path, changes, match):
    cifar100_python(tmp_path, **changes)
    with pytest.raises(RegimeError, match=match):
        load("CIFAR100", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00", pickle.dumps([1, 2])])
def test_a_pickle_that_is_cut_off_or_of_another_kind(tmp_path, content):
    (tmp_path / "train").write_bytes(content)
    with pytest.raises(RegimeError, match=r"train: (not a pickle|a pickle without|empty)"):
        load("CIFAR100", tmp_path)


def test_an_image_that_is_cut_off(tmp_path):
    root = tiny_imagenet(tmp_path)
    damaged = root / "train" / "n01629819" / "images" / "n01629819_1.JPEG"
    whole = damaged.read_bytes()
    for size in (0, 3, 200, len(whole) - 20):
        damaged.write_bytes(whole[:size])
        with pytest.raises(RegimeError, match=rf"n01629819_1\.JPEG: {size} bytes that cannot be decoded") as caught:
            load("TinyImageNet", tmp_path)
        assert "\n" not in str(caught.value)


def test_an_image_of_too_many_pixels():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(RegimeError, match="here: more than 89,478,485 pixels; it is not decoded"):
        ImageFiles([Encoded(content)], 8)[np.array([0])]


def test_other_formats_than_jpeg_and_png_are_not_decoded():
    with pytest.raises(RegimeError, match=r"here: \d+ bytes that cannot be decoded \(no JPEG or PNG\)"):
        ImageFiles([Encoded(encoded(kind="TIFF"))], 8)[np.array([0])]


@pytest.mark.parametrize(
    ("line", "match"),
    [("val_0.JPEG\tn99999999\t0", "expected an image and a class"), ("../x.JPEG\tn01443537", "expected an image")],
)
def test_annotations_of_something_else(tmp_path, line, match):
    root = tiny_imagenet(tmp_path)
    (root / "val" / "val_annotations.txt").write_text(line + "\n")
    with pytest.raises(RegimeError, match=match):
        load("TinyImageNet", tmp_path)


@pytest.mark.parametrize("line", ["apple_pie", "apple_pie/../../../etc/passwd", "pizza/1", ""])
def test_a_list_of_something_else(tmp_path, line):
    root = food101(tmp_path)
    (root / "meta" / "train.txt").write_text(line + "\n")
    with pytest.raises(RegimeError, match=r"train\.txt: (line 1 is .*expected CLASS/NUMBER|is empty)"):
        load("Food-101", tmp_path)


def test_a_class_without_images(tmp_path):
    root = tiny_imagenet(tmp_path)
    for path in (root / "train" / "n01443537" / "images").iterdir():
        path.unlink()
    with pytest.raises(RegimeError, match=r"images: no \*\.JPEG in it, though .*wnids\.txt names n01443537"):
        load("TinyImageNet", tmp_path)


def test_a_table_whose_images_lie_elsewhere(tmp_path):
    for split in ("train", "validation"):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = pa.array([{"bytes": None, "path": "/etc/passwd"}], kind)
        parquet.write_table(pa.table({"image": cells, "label": [0]}), tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(RegimeError, match="image 0: has no bytes, only the path of a file elsewhere"):
        load("Food-101", tmp_path)


@pytest.mark.parametrize("name", ["CIFAR100", "TinyImageNet", "Food-101"])
def test_an_empty_folder_is_told_what_is_expected(tmp_path, name):
    with pytest.raises(RegimeError) as caught:
        load(name, tmp_path)
    assert source_of(name).LAYOUT in str(caught.value)


def test_a_file_of_its_own_that_is_a_folder(tmp_path):
    with pytest.raises(RegimeError, match=r"cannot be read \(Is a directory\)"):
        ImageFiles([FileContent(tmp_path)], 8)[np.array([0])]
