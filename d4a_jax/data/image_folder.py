"""Anybody's images, in one folder per class."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d4a_jax.data import cache, decode, pixel_range
from d4a_jax.data.catalogue import VERSION
from d4a_jax.data.dataset import Dataset, check_class_names
from d4a_jax.data.errors import DatasetError
from d4a_jax.data.folder_listing import Groups, list_folder
from d4a_jax.data.pixel_range import PixelRange

# Raised whenever the same files would give other arrays. The second rules turn images
# as EXIF says and scale 16-bit images by the range that is found.
_RULES = 2
_BINARY = PixelRange(0, 1)


def load_image_folder(*, path: Path, size: int | None, data_dir: Path) -> Dataset:
    """Loads a folder of images.

    Either `path/train/<class>/<file>` with `path/test`, `path/val` or
    `path/validation` beside it (the first of these that exists is used), or only
    `path/<class>/<file>`; then a tenth of each class, at least one image, drawn with a
    fixed seed, is the test split. For the other names that are understood see
    `folder_listing`. Classes are labelled in the order of their sorted names, files
    are taken in natural order. Images become RGB, unless all are greyscale, and are
    turned as EXIF says, see `decode`; 16-bit images are scaled by the range that is
    found in all files, see `pixel_range`. The decoded images are cached under a key
    made of every file's name, size and time of change.

    Args:
      path: the folder.
      size: side to resize to; needed where the images have different sizes.
      data_dir: the cache goes to its folder `cache`.

    Raises:
      DatasetError: the folder or a file in it cannot be used; the message names it.
    """
    if not path.is_dir():
        raise DatasetError(f"There is no folder {path}; path must name one.")
    splits, notes = list_folder(path.absolute())
    class_names = check_class_names(path.name, list(splits["train"]))
    listing = _listing_digest(path.absolute(), splits)
    made = f"{VERSION}-{size or 'original'}-{decode.decoder_name()}"
    key = f"{made}-rules{_RULES}-{listing[:16]}"
    directory = data_dir / "cache" / "image_folder" / key
    if not directory.is_dir():
        try:
            with cache.exclusive(directory.parent):
                if not directory.is_dir():
                    cache.remove_leftovers(directory)
                    _write(directory, path.name, class_names, splits, size)
        except OSError as error:
            raise DatasetError(
                f"The images of {path} cannot be cached in {data_dir}: {error}."
            ) from error
    dataset = cache.open_cache(directory, flip=True)
    return dataclasses.replace(dataset, understood=notes + dataset.understood)


def _listing_digest(root: Path, splits: dict[str, Groups]) -> str:
    listing = []
    for split, groups in splits.items():
        for name, files in groups.items():
            for file in files:
                status = file.stat()
                relative = file.relative_to(root).as_posix()
                listing.append(
                    (split, name, relative, status.st_size, status.st_mtime_ns)
                )
    text = repr((str(root), listing))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _files(groups: Groups) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(sorted(groups)):
        for file in groups[name]:
            yield file, label


class _Scan(NamedTuple):
    """What all files together say of how each one is decoded.

    Attributes:
      shape: of every decoded image.
      values: the values that become 0 and 255 in 16-bit images; where all images hold
        nothing but 0 and 1, in all of them.
      turned: number of images that EXIF turns.
    """

    shape: tuple[int, int, int]
    values: PixelRange
    turned: int

    @property
    def is_scaled(self) -> bool:
        return self.values not in (decode.WHOLE_16_BITS, PixelRange(0, 255))


def _write(directory, name, class_names, splits, size) -> None:
    """Decodes the images into a new cache directory."""
    scan = _scan(splits, size)
    # Part of the fingerprint only where they change an image.
    rules, notes = {}, []
    if scan.turned:
        rules["orientation"] = "exif"
        notes.append(f"{scan.turned:,} images turned as their EXIF data say")
    if scan.is_scaled:
        rules["pixel_range"] = list(scan.values)
        notes.append(pixel_range.describe(scan.values))
    cache.write_cache(
        directory,
        name,
        class_names,
        {split: _make_split(groups, scan, size) for split, groups in splits.items()},
        notes=notes,
        version=VERSION,
        size=size,
        decoder=decode.decoder_name(),
        **rules,
    )


def _scan(splits: dict[str, Groups], size: int | None) -> _Scan:
    """Reads every image's header, and the pixels of those with 16 bits."""
    first, grey, turned, values = None, True, 0, _Values()
    for groups in splits.values():
        for file, _ in _files(groups):
            data = _read(file)
            image = decode.open_image(data, str(file))
            grey = grey and image.mode in decode.GREY_MODES
            sides = decode.upright_sides(image, data)
            turned += decode.orientation(image, data) != 1
            first = first or (file, sides)
            if size is None and sides != first[1]:
                raise DatasetError(
                    f"{first[0]} is {first[1][0]} x {first[1][1]} pixels, but {file} "
                    f"is {sides[0]} x {sides[1]}; give size to resize all images."
                )
            values.see(image, file)
    height, width = (size, size) if size else first[1]
    return _Scan((height, width, 1 if grey else 3), values.range(), turned)


class _Values:
    """Gathers the range of the values of 16-bit images, and whether others are 0/1."""

    def __init__(self):
        self._wide: list[np.ndarray] = []
        self._narrow = PixelRange(0, 0)

    def see(self, image, file: Path) -> None:
        """Takes an image into account; most need not be decoded for that."""
        if decode.is_16_bit(image):
            pixels = decode.raw_pixels(image, str(file))
            self._wide.append(np.array([pixels.min(), pixels.max()]))
        elif self._narrow.high <= 1:
            plain = image.mode in ("L", "RGB")
            high = decode.raw_pixels(image, str(file)).max() if plain else 255
            self._narrow = PixelRange(0, max(self._narrow.high, int(high)))

    def range(self) -> PixelRange:
        """The range by which the images are scaled."""
        if not self._wide:
            return _BINARY if self._narrow == _BINARY else PixelRange(0, 255)
        found = pixel_range.of_integers(pixel_range.find(self._wide), is_wide=True)
        if found == _BINARY and self._narrow.high > 1:
            raise DatasetError(
                "The 16-bit images hold nothing but 0 and 1, and the 8-bit images "
                f"reach {self._narrow.high}; save all of them with one depth."
            )
        return found


def _make_split(groups: Groups, scan: _Scan, size: int | None) -> cache.Split:
    files = list(_files(groups))

    def decode_one(file):
        return decode.decode_image(
            _read(file), str(file), scan.shape[2], None, size, scan.values, upright=True
        )

    examples = ((decode_one(file), label) for file, label in files)
    return cache.Split(len(files), scan.shape, examples)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error}.") from None
