"""Images of a user's own: what arrives in the arrays is what stands in the files, and mistakes are named."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import losssearch as ls

HOUSE = Path(__file__).parents[2]
RED, GREEN = (255, 0, 0), (0, 128, 0)


def save(file: Path, colour=RED, size: tuple[int, int] = (6, 4), **how) -> Path:
    """A picture of one colour; size is (width, height), as Pillow has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file, **how)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "b" / "1.png")
    save(tmp_path / "b" / "deep" / "2.bmp")
    save(tmp_path / "a" / "9.png", GREEN)
    return tmp_path


# Folders.


def test_classes_are_numbered_by_sorted_folder_names(folder: Path) -> None:
    x, y = ls.image_folder(folder, size=(4, 6))
    assert (x.shape, x.dtype, y.dtype) == ((3, 3, 4, 6), np.float32, np.int64)
    assert y.tolist() == [0, 1, 1]
    for image, colour in zip(x, (GREEN, RED, RED), strict=True):
        expected = np.array(colour, np.float32) / 255
        assert np.array_equal(image, np.broadcast_to(expected[:, None, None], (3, 4, 6)))


def test_pixels_stand_where_they_stood(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a" / "9.png")
    x, _ = ls.image_folder(folder, size=(4, 6))
    for row, column, channel in np.ndindex(4, 6, 3):
        assert x[0, channel, row, column] == pytest.approx(pixels[row, column, channel] / 255)


def test_a_smaller_image_averages_the_whole_and_cuts_nothing(folder: Path) -> None:
    half = np.zeros((32, 64), np.uint8)
    half[:, 32:] = 200
    Image.fromarray(half).save(folder / "a" / "9.png")
    x, _ = ls.image_folder(folder, size=8, grey=True)
    assert x[0].mean() == pytest.approx(100 / 255, abs=0.01)
    assert x[0, 0, :, 0] == pytest.approx(0)
    assert x[0, 0, :, -1] == pytest.approx(200 / 255)


def test_grey_is_the_luma_of_red_green_and_blue(folder: Path) -> None:
    x, _ = ls.image_folder(folder, size=2, grey=True)
    assert x.shape == (3, 1, 2, 2)
    assert x[:, 0, 0, 0] == pytest.approx([0.587 * 128 / 255, 0.299, 0.299], abs=1 / 255)


def test_a_photo_is_close_to_itself(folder: Path) -> None:
    save(folder / "a" / "9.png", (200, 100, 50))
    save(folder / "b" / "1.jpg", (200, 100, 50), size=(900, 700), quality=95)
    x, _ = ls.image_folder(folder, size=16)
    assert np.abs(x[0] - x[1]).max() < 0.02


def test_the_camera_says_which_way_is_up(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    picture = Image.new("L", (8, 8))
    picture.paste(255, (0, 0, 8, 4))  # the upper half is white: it will be the right one
    picture.save(folder / "a" / "9.png", exif=exif)
    x, _ = ls.image_folder(folder, size=8, grey=True)
    assert x[0, 0, :, :4].max() == 0
    assert x[0, 0, :, 4:].min() == 1


def test_sixteen_bits_are_not_cut_at_eight(folder: Path) -> None:
    Image.fromarray(np.array([[0, 32768], [65535, 300]], np.uint16)).save(folder / "a" / "9.png")
    for grey, channels in ((True, 1), (False, 3)):
        x, _ = ls.image_folder(folder, size=2, grey=grey)
        for channel in range(channels):
            assert x[0, channel].ravel() == pytest.approx([0, 32768 / 65535, 1, 300 / 65535])


def test_transparency_is_dropped(folder: Path) -> None:
    Image.new("RGBA", (2, 2), (*GREEN, 7)).save(folder / "a" / "9.png")
    palette = Image.new("RGB", (2, 2), RED).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(folder / "b" / "1.png", transparency=bytes(range(256)))
    x, _ = ls.image_folder(folder, size=2)
    assert x[0, :, 0, 0] * 255 == pytest.approx(GREEN)
    assert x[1, :, 0, 0] * 255 == pytest.approx(RED)


def test_files_beside_the_classes_and_hidden_ones_are_left_alone(folder: Path) -> None:
    for place in ("labels.csv", "a/.DS_Store", ".cache/x.txt"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text("no image")
    assert len(ls.image_folder(folder)[1]) == 3


def test_a_path_is_a_text_or_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert np.array_equal(ls.image_folder(folder.name)[0], ls.image_folder(folder)[0])


def one_class(folder: Path) -> None:
    for file in (folder / "a").iterdir():
        file.unlink()
    (folder / "a").rmdir()


@pytest.mark.parametrize(
    ("spoil", "options", "says"),
    [
        (lambda f: f.rename(f.parent / "elsewhere"), {}, "no such folder"),
        (lambda f: [one_class(f), (f / "b").rename(f.parent / "b")], {}, "no class folder"),
        (one_class, {}, "two classes or more"),
        (lambda f: (f / "c").mkdir(), {}, "'c' is empty"),
        (lambda f: (f / "b" / "notes.txt").write_text("x"), {}, r"b/notes\.txt: no image"),
        (lambda f: (f / "b" / "1.png").write_bytes(b""), {}, r"b/1\.png: no image"),
        (
            lambda f: (f / "b" / "1.png").write_bytes(
                save(f / "a" / "9.png", size=(600, 400)).read_bytes()[:99]
            ),
            {},
            r"b/1\.png: no image",
        ),
        (
            lambda f: Image.fromarray(np.ones((2, 2), np.float32)).save(f / "b" / "1.tiff"),
            {},
            r"b/1\.tiff: .*no known range",
        ),
        (lambda f: None, {"size": 0}, "from 1 to 1024"),
        (lambda f: None, {"size": 10**6}, "from 1 to 1024"),
        (lambda f: None, {"size": 3.5}, "from 1 to 1024"),
        (lambda f: None, {"size": (4, 4, 4)}, "from 1 to 1024"),
        (lambda f: None, {"size": True}, "from 1 to 1024"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(folder: Path, spoil, options, says: str) -> None:
    spoil(folder)
    with pytest.raises(ls.LossSearchError, match=says) as caught:
        ls.image_folder(folder, **options)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_what_would_not_fit_into_memory_is_refused_before_it_is_read(folder: Path) -> None:
    big = range(2**30 // (4 * 3 * 1024 * 1024) + 1)
    for i in big:
        (folder / "a" / f"{i}.png").write_text("never read")
    with pytest.raises(ls.LossSearchError, match=r"1\.0 GiB.*Take a smaller size"):
        ls.image_folder(folder, size=1024)


# Data set objects.


class Fake:
    """Behaves like `torchvision.datasets.FakeData`: (image of Pillow's, label), the image transformed."""

    def __init__(self, transform=None, size: int = 12, classes: int = 3) -> None:
        self.transform, self.size, self.classes = transform, size, classes

    def __len__(self) -> int:
        return self.size

    def picture(self, index: int):
        draw = np.random.default_rng(index)
        return draw.integers(0, 256, (5, 4, 3), np.uint8)

    def __getitem__(self, index: int):
        if index >= len(self):
            raise IndexError(f"{type(self).__name__} index out of range")
        image = Image.fromarray(self.picture(index))
        return image if self.transform is None else self.transform(image), index % self.classes


def to_tensor(image):
    """`torchvision.transforms.ToTensor`, by its definition."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


TRANSFORMS = {
    "pillow": None,
    "floats": to_tensor,
    "bytes": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_the_arrays_are_the_samples_whatever_their_form(transform) -> None:
    data = Fake(transform)
    x, y = ls.torchvision_data(data)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert y.tolist() == [i % 3 for i in range(12)]
    expected = np.stack([data.picture(i).transpose(2, 0, 1) / 255 for i in range(12)])
    assert np.abs(x - expected).max() < 1e-6


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_size_and_grey_mean_the_same_for_images_and_tensors(transform) -> None:
    x, _ = ls.torchvision_data(Fake(transform), size=(3, 2), grey=True)
    plain, _ = ls.torchvision_data(Fake(None), size=(3, 2), grey=True)
    assert x.shape == (12, 1, 3, 2)
    assert np.abs(x - plain).max() < 2 / 255  # Pillow rounds to bytes


def test_a_normalised_tensor_stays_as_it_is_and_a_flat_one_gets_a_channel() -> None:
    x, _ = ls.torchvision_data(Fake(lambda image: to_tensor(image)[0] * 8 - 4))
    assert x.shape == (12, 1, 5, 4)
    assert x.min() < -3


def test_a_part_of_a_data_set_and_labels_that_are_tensors() -> None:
    part = torch.utils.data.Subset(Fake(to_tensor), range(2, 8))
    x, y = ls.torchvision_data(part)
    assert (len(x), y.tolist()) == (6, [2, 0, 1, 2, 0, 1])
    _, same = ls.torchvision_data([(image, torch.tensor(label)) for image, label in part])
    assert same.tolist() == y.tolist()


def test_random_transforms_are_drawn_once_and_disturb_nobody() -> None:
    def shaken(image):
        return to_tensor(image) + torch.rand(()) + random.random() + float(np.random.rand())

    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    first, _ = ls.torchvision_data(Fake(shaken))
    drawn = torch.rand(()), random.random(), np.random.rand()
    second, _ = ls.torchvision_data(Fake(shaken))
    plain, _ = ls.torchvision_data(Fake(to_tensor))
    assert np.array_equal(first, second)
    assert len({round(float(shift), 4) for shift in (first - plain)[:, 0, 0, 0]}) == 12
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    assert drawn == (torch.rand(()), random.random(), np.random.rand())


class Stream:
    """An iterable data set: it has no length."""

    def __iter__(self):
        return iter(Fake())


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (Stream(), {}, "no length"),
        ([], {}, "no image at all"),
        (Fake(classes=1), {}, "two classes or more"),
        ([(np.zeros((4, 4)), 0)], {}, "sample 0: .*it is a ndarray"),
        ([(torch.zeros(4), 0)], {}, r"sample 0: .*shape \(4,\)"),
        ([Image.new("L", (2, 2))], {}, "sample 0: it must be a pair"),
        ([(Image.new("L", (2, 2)), "cat")], {}, "sample 0: it must be a pair"),
        ([(Image.new("L", (2, 2)), torch.eye(3)[0])], {}, "sample 0: it must be a pair"),
        ([(Image.new("L", (2, 2)), -1)], {}, "sample 0: it must be a pair"),
        (
            [(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 3, 2), 1)],
            {},
            r"sample 1: its image is 1 x 3 x 2, but the first is 1 x 2 x 2\. Give size",
        ),
        (Fake(), {"size": 5000}, "from 1 to 1024"),
        (Fake(lambda image: torch.zeros(1).expand(2**20, 64, 64)), {}, "GiB"),
    ],
)
def test_a_wrong_data_set_is_one_line_that_says_which_sample(data, options, says: str) -> None:
    with pytest.raises(ls.LossSearchError, match=says) as caught:
        ls.torchvision_data(data, **options)
    assert "\n" not in str(caught.value)


def test_the_real_torchvision_gives_the_same_arrays(folder: Path) -> None:
    vision = pytest.importorskip(
        "torchvision",
        reason="torchvision is not installed: its own data sets were not tried, only a copy of their ways.",
        exc_type=ImportError,
    )
    data = vision.datasets.ImageFolder(str(folder), vision.transforms.ToTensor())
    ours, y = ls.image_folder(folder, size=(4, 6))
    x, labels = ls.torchvision_data(data)
    assert np.abs(x - ours).max() < 1e-6
    assert labels.tolist() == y.tolist()
    fake = vision.datasets.FakeData(10, (3, 6, 6), 2, vision.transforms.RandomCrop(4))
    assert np.array_equal(ls.torchvision_data(fake)[0], ls.torchvision_data(fake)[0])
    assert ls.torchvision_data(fake)[0].shape == (10, 3, 4, 4)


# In a search.


def test_splits_of_large_data_are_not_hoarded() -> None:
    many, few = np.zeros((12, 3, 1024, 1024), np.float32), np.zeros((12, 3, 8, 8), np.float32)
    y = np.arange(12) % 2
    held = [ls.task(data=(x, y)).draw.cache_info().maxsize for x in (many, few)]
    assert held[0] * many.nbytes <= 2**28
    assert held[1] == 64


@pytest.mark.slow
def test_the_example_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = HOUSE / "examples" / "image_folder.py"
    runpy.run_path(str(example))["write"](every=12)
    for name, value in {"FINALISTS": 1, "SETTINGS": 0, "SLIMMED": 0}.items():
        monkeypatch.setattr(f"losssearch.finals.{name}", value)
    search = ls.Search(
        "multiclass", f"{example}:digits", "random", ["cross_entropy", "gce"],
        f"sqlite:///{tmp_path}/losses.db", "images", workers="inline",
    )  # fmt: skip
    assert 0.3 < search.run(candidates=2).best.score < 0.85
