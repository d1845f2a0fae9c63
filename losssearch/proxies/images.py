"""How do a user's own images become the arrays that `task` takes?

From a folder with one folder a class, or from a data set object of torchvision's kind, torchvision itself not
being needed. Every image is brought to one size, all of it, by averaging over what a new pixel covers.
Reading takes some 0.4 ms a small picture; of large ones, decoding takes most.

The arrays are held in memory: 4 bytes a pixel and channel. In the last rung a worker holds 24 splits of two
thirds of the samples, twice: about 33 times the arrays. 10,000 images of 3 x 32 x 32 are 123 MB, and 4 GB in
each worker then; grey ones of 16 x 16 are 10 MB, and 340 MB.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from losssearch.errors import ProxyError
from losssearch.execution.plan import Floats

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (1, 1024)  # pixels a side
MOST_BYTES = 2**30  # of all images together
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow weighs red, green and blue

Size = tuple[int, int]
Item = TypeVar("Item", covariant=True)


class Samples(Protocol[Item]):
    """What `torch.utils.data.Dataset` of the map kind offers."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Item: ...


def image_folder(
    path: str | Path, size: int | Size = 32, grey: bool = False
) -> tuple[Floats, NDArray[np.int64]]:
    """Images in one folder a class, for `task(data=...)`.

        digits/one/a.png, digits/one/b.jpg, digits/two/c.png   ->   y = 0, 0, 1

    Args:
        path: The folder that holds the class folders. Files directly in it, and all whose name begins with a
            dot, are left alone; what lies in folders of a class folder belongs to the class.
        size: Pixels of a side, or (height, width), from 1 to 1024. Images of another shape are stretched, not
            cut.
        grey: One channel of brightness in place of red, green and blue.

    Returns:
        X of shape (samples, channels, height, width) in [0, 1], and y of shape (samples,): the place of the
        image's class among the sorted names of the class folders. Images are turned as their camera
        says, transparency is dropped, and of a film the first picture is taken.

    Raises:
        ProxyError: There is no such folder, it holds fewer than two classes, a class is empty, a file is
            no image, or the size does not fit.
    """
    root = Path(path).expanduser()
    where = f"image_folder {str(path)!r}"
    shape = _checked_size(where, size)
    if not root.is_dir():
        raise ProxyError(f"{where}: there is no such folder. Check the path; relative to {Path.cwd()}.")
    classes = sorted(child for child in _visible(root) if child.is_dir())
    if not classes:
        raise ProxyError(f"{where}: no class folder in it. Put the images of each class in a folder there.")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        own = sorted(_files(folder))
        if not own:
            raise ProxyError(f"{where}: the class folder {folder.name!r} is empty. Fill it, or take it away.")
        files += own
        labels += [label] * len(own)
    x = _room(where, len(files), 1 if grey else 3, shape)
    for i, file in enumerate(files):
        x[i] = _read(file, shape, grey)
    return x, _labels(where, labels)


def torchvision_data(
    dataset: Samples[Sequence[Any]], size: int | Size | None = None, grey: bool = False
) -> tuple[Floats, NDArray[np.int64]]:
    """A data set of torchvision's kind as arrays, for `task(data=...)`; torchvision need not be installed.

        torchvision_data(torchvision.datasets.CIFAR10("data", transform=None), size=16)

    Args:
        dataset: `dataset[i]` is (image, label) for i in 0..len(dataset) - 1, whatever its transforms make of
            them: an image of Pillow's, or a tensor (channels, height, width) or (height, width), of
            floats or bytes. Random transforms are drawn once an image, the same in every process. For
            a part, give `torch.utils.data.Subset(dataset, range(2000))`.
        size: Pixels of a side, or (height, width), from 1 to 1024; None keeps that of the images, which must
            then be of one size.
        grey: One channel of brightness, 0.299 red + 0.587 green + 0.114 blue. Otherwise images of Pillow's
            have three, and tensors the channels that they have.

    Returns:
        X of shape (samples, channels, height, width), and y of shape (samples,), the labels. X is in [0, 1];
        tensors of floats are taken as they are, so that a `Normalize` among the transforms stays.

    Raises:
        ProxyError: The data set has no length, a sample is no such pair, sizes or channels differ, there
            are fewer than two classes, or the size does not fit.
    """
    where = f"torchvision_data of {type(dataset).__name__}"
    shape = None if size is None else _checked_size(where, size)
    try:
        count = len(dataset)
    except TypeError:
        raise ProxyError(f"{where}: it has no length, so it cannot be split. Give list(dataset).") from None
    x: Floats = np.empty(0, np.float32)
    labels: list[int] = []
    with _same_draws():
        for i in range(count):
            here = f"{where}, sample {i}"
            image, label = _pair(here, dataset[i])
            found = _pixels(here, image, shape, grey)
            if i == 0:
                x = _room(where, count, len(found), (found.shape[1], found.shape[2]))
            if found.shape != x.shape[1:]:
                raise ProxyError(
                    f"{here}: its image is {_shown(found.shape)}, but the first is {_shown(x.shape[1:])}. "
                    "Give size=..., or grey=True where channels differ."
                )
            x[i] = found
            labels.append(label)
    return x, _labels(where, labels)


def _visible(folder: Path) -> Iterator[Path]:
    return (child for child in folder.iterdir() if not child.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    for child in _visible(folder):
        if child.is_dir():
            yield from _files(child)
        else:
            yield child


def _checked_size(where: str, size: int | Size) -> Size:
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (tuple, list)) else ()
    low, high = SIZES
    if len(sides) != 2 or any(
        isinstance(s, bool) or not isinstance(s, int) or not low <= s <= high for s in sides
    ):
        raise ProxyError(
            f"{where}: size={size!r} must be whole pixels from {low} to {high}, or (height, width)."
        )
    return sides


def _room(where: str, count: int, channels: int, size: Size) -> Floats:
    """Space for all images, if it is no absurd amount."""
    needed = 4 * count * channels * size[0] * size[1]
    if needed > MOST_BYTES:
        raise ProxyError(
            f"{where}: {count} images of {_shown((channels, *size))} are {needed / 2**30:.1f} GiB, but "
            f"{MOST_BYTES / 2**30:.0f} GiB is the most. Take a smaller size, grey=True, or fewer images."
        )
    return np.empty((count, channels, *size), np.float32)


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _labels(where: str, labels: Sequence[int]) -> NDArray[np.int64]:
    found = sorted(set(labels))
    if len(found) < 2:
        told = f"only {found[0]}" if found else "no image at all"
        raise ProxyError(f"{where}: two classes or more are needed, but there is {told}. Add another class.")
    return np.array(labels, np.int64)


def _read(file: Path, size: Size, grey: bool) -> Floats:
    try:
        with Image.open(file) as image:
            image.draft("L" if grey else "RGB", (max(size), max(size)))  # JPEG: decodes no finer than needed
            return _from_image(ImageOps.exif_transpose(image), size, grey)
    except Exception as error:  # a broken file may raise anything
        why = str(error).partition("\n")[0].removesuffix(f" {str(file)!r}")
        raise ProxyError(f"{file}: no image that can be read ({why}). Mend it, or take it away.") from None


def _pixels(where: str, image: Any, size: Size | None, grey: bool) -> Floats:
    """Of an image of Pillow's, or of a tensor."""
    import torch

    try:
        if isinstance(image, Image.Image):
            return _from_image(image, size, grey)
        if isinstance(image, torch.Tensor):
            return _from_tensor(image, size, grey)
        raise ValueError(f"it is a {type(image).__name__}")
    except ValueError as error:
        raise ProxyError(
            f"{where}: its image cannot be read ({error}). It must be one of Pillow's, or a tensor "
            "(channels, height, width)."
        ) from None


def _from_image(image: Image.Image, size: Size | None, grey: bool) -> Floats:
    """Shape (channels, height, width), in [0, 1]."""
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    if image.mode.startswith("I;16"):  # Pillow would cut these at 255
        image = Image.fromarray(np.asarray(image, np.float32) / 65535)
    else:
        if "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("L" if grey else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels: Floats = np.asarray(image, np.float32)
    if image.mode != "F":
        pixels = pixels / np.float32(255)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], 1 if grey else 3, axis=0)
    return pixels.transpose(2, 0, 1)


def _from_tensor(image: Tensor, size: Size | None, grey: bool) -> Floats:
    """Shape (channels, height, width); bytes are brought to [0, 1]."""
    import torch
    from torch.nn.functional import interpolate

    if image.ndim not in (2, 3) or image.numel() == 0:
        raise ValueError(f"it is a tensor of shape {tuple(image.shape)}")
    pixels = image.detach().cpu()
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    if grey and len(pixels) == 3:
        pixels = torch.einsum("chw,c->hw", pixels, torch.tensor(_LUMA))[None]
    if size is not None and tuple(pixels.shape[1:]) != size:
        pixels = interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    found: Floats = pixels.numpy()
    return found


def _pair(where: str, sample: Any) -> tuple[Any, int]:
    """Image and class number of a sample."""
    try:
        image, label = sample
        number = int(label)
        if number != label or number < 0:
            raise ValueError
    except (TypeError, ValueError, RuntimeError):
        raise ProxyError(f"{where}: it must be a pair of an image and a class number 0, 1, 2, ...") from None
    return image, number


@contextmanager
def _same_draws() -> Iterator[None]:
    """Random transforms draw the same in every process, and nobody else's draws are touched."""
    import torch

    kept, drawn = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(drawn)
