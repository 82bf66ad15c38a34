"""An image file as the network wants it: float32 (1, C, H, W), by the record of the network's own weights.

    open, turn upright ── resize ── cut the centre ── (pixel / 255 - mean) / std

Only PIL reads here: torchvision.io does not load beside a CPU build of torch.
"""

from __future__ import annotations

import json
import math
import struct
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from laudc.errors import ArtifactError, InputError

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_MODES = ("center", "squash")
_MOST_PIXELS = 2**27  # of the resized image: 400 MB as RGB
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How the images were prepared that the weights were trained on; ImageNet's usual way by default."""

    size: tuple[int, int] = (224, 224)
    """(H, W) of the cut."""
    resize: int = 256
    """The shorter side before the cut; it grows with the size asked for."""
    mode: str = "center"
    """ "center" keeps the proportions and cuts, "squash" resizes both sides."""
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        numbers = (*self.size, self.resize, *self.std)
        if self.interpolation not in _FILTERS or self.mode not in _MODES:
            raise InputError(
                f"images cannot be resized by {self.interpolation!r}, {self.mode!r}", "use bilinear, center"
            )
        if len(self.mean) != len(self.std) or not all(0 < n < math.inf for n in numbers):
            raise InputError(f"{self!r} does not hold", "every size and deviation is a number above 0")

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`; anything malformed is an ArtifactError."""
        try:
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(text).items()
            }
            return cls(**values)
        except (TypeError, ValueError, AttributeError, InputError) as error:
            raise ArtifactError(f"the preprocessing record does not hold: {error}", "make the file again") from error

    @classmethod
    def of(cls, source: Mapping[str, str]) -> Self:
        """What a program's source says; the default where it says nothing."""
        text = source.get("preprocessing")
        return cls() if text is None else cls.from_json(text)

    def __str__(self) -> str:
        height, width = self.size
        fitted = "squashed" if self.mode == "squash" else "shorter side"
        mean, std = (" ".join(f"{number:.3g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"{height}x{width}: {fitted} to {self.resize}, centre cut, {self.interpolation}, mean {mean}, std {std}"

    def for_size(self, size: tuple[int, int]) -> Self:
        """The same look at another size."""
        return replace(self, size=size, resize=max(1, round(self.resize * min(size) / min(self.size))))


def load_image(path: Path, record: Preprocessing, *, size: tuple[int, int] | None = None, channels: int = 3) -> Tensor:
    """The image, ready for the network. InputError where there is none, or not one that can be read."""
    if channels not in (1, 3):
        raise InputError(f"the network reads {channels} channels", "an image has 1 or 3: run it from Python")
    chosen = record if size is None else record.for_size(size)
    pixels = _fitted(path, _opened(path, "RGB" if channels == 3 else "L"), chosen)
    mean, std = (torch.tensor(_for_channels(values, channels)).view(-1, 1, 1) for values in (record.mean, record.std))
    stacked = torch.from_numpy(np.array(pixels, dtype=np.uint8)).view(*chosen.size, channels).permute(2, 0, 1)
    return ((stacked.float() / 255 - mean) / std).unsqueeze(0).contiguous()


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def _opened(path: Path, mode: str) -> Image.Image:
    if not path.exists():
        raise InputError(f"there is no image {path}", "check the path")
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name the images in it, such as photos/*.jpg")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            image.load()
            return _flat(ImageOps.exif_transpose(image)).convert(mode)
    except _BROKEN as error:
        what = "not an image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise InputError(f"{path} cannot be read: {what}".splitlines()[0], "give a JPEG, PNG or WebP file") from error


def _flat(image: Image.Image) -> Image.Image:
    """Eight bits a channel and nothing transparent: what a viewer on white paper shows."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.float64)
        scale = 257 if wide.max(initial=0) > 255 else 1  # 16 bits come as I;16 or I
        return Image.fromarray((wide / scale).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image


def _fitted(path: Path, image: Image.Image, record: Preprocessing) -> Image.Image:
    """Resized and cut as torchvision does it on PIL images, to the pixel."""
    height, width = record.size
    new_height, new_width = _resized(image.height, image.width, record)
    if new_height * new_width > _MOST_PIXELS:
        raise InputError(f"{path} is {image.width} x {image.height}, too long and narrow", "cut it first")
    image = image.resize((new_width, new_height), _FILTERS[record.interpolation])
    top, left = round((new_height - height) / 2), round((new_width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _resized(height: int, width: int, record: Preprocessing) -> tuple[int, int]:
    """(H, W) before the cut: no side of the cut is left uncovered."""
    wanted_height, wanted_width = (max(side, round(record.resize * side / min(record.size))) for side in record.size)
    if record.mode == "squash":
        return wanted_height, wanted_width
    if wanted_height * width >= wanted_width * height:
        return wanted_height, max(record.size[1], wanted_height * width // height)
    return max(record.size[0], wanted_width * height // width), wanted_width
