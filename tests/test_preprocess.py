"""Images as the libraries themselves would prepare them, to the last bit; and every odd kind of image file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from laudc.errors import ArtifactError, InputError
from laudc.models import open_model
from laudc.preprocess import Preprocessing, load_image

PLAIN = Preprocessing(size=(8, 8), resize=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def photo(path: Path, height: int, width: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (100, 101), (600, 600)])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])  # bilinear, bicubic
def test_torchvision_prepares_it_the_same(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    path = photo(tmp_path / "photo.png", *shape)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    record = open_model(name, seed=0, pretrained=False).preprocessing
    expected = weights.transforms()(Image.open(path)).unsqueeze(0)
    assert torch.equal(load_image(path, record), expected)


@pytest.mark.parametrize("shape", [(300, 451), (151, 100)])
def test_timm_prepares_it_the_same(shape: tuple[int, int], tmp_path: Path) -> None:
    from timm.data import create_transform, resolve_model_data_config

    path = photo(tmp_path / "photo.png", *shape)
    named = open_model("timm/resnet10t", seed=0, pretrained=False)
    theirs = create_transform(**resolve_model_data_config(named.module), is_training=False)
    assert torch.equal(load_image(path, named.preprocessing), theirs(Image.open(path)).unsqueeze(0))


@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (20, 30), (1, 1)])
@pytest.mark.parametrize("size", [(200, 232), (232, 200), (33, 20)])
def test_any_size_is_covered(size: tuple[int, int], shape: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    Image.new("RGB", (shape[1], shape[0]), "white").save(path)
    image = load_image(path, Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3), size=size)
    assert image.shape == (1, 3, *size)
    assert torch.equal(image, torch.ones_like(image))  # a cut beyond the image would be black


def test_squash_shows_the_whole_image(tmp_path: Path) -> None:
    path = tmp_path / "halves.png"
    halves = Image.new("RGB", (40, 8), "black")
    halves.paste("white", (0, 0, 10, 8))
    halves.save(path)
    squashed = Preprocessing(
        size=(8, 8), resize=8, mode="squash", interpolation="nearest", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    assert load_image(path, squashed)[0, 0, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_a_camera_held_sideways_is_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "sideways.jpg"
    stored = Image.new("L", (8, 8), 0)
    stored.paste(255, (0, 0, 4, 8))  # white on the left of what the sensor saw
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes up
    stored.convert("RGB").save(path, exif=exif, quality=100)
    image = load_image(path, PLAIN)
    assert image[0, :, 0].min() > 0.9
    assert image[0, :, -1].max() < 0.1


@pytest.mark.parametrize(
    ("mode", "fill", "expected"),
    [
        ("L", 51, (0.2, 0.2, 0.2)),
        ("1", 1, (1.0, 1.0, 1.0)),
        ("P", None, (0.0, 0.0, 1.0)),
        ("RGBA", (255, 0, 0, 0), (1.0, 1.0, 1.0)),
        ("RGBA", (255, 0, 0, 255), (1.0, 0.0, 0.0)),
        ("LA", (51, 255), (0.2, 0.2, 0.2)),
        ("I;16", 257 * 51, (0.2, 0.2, 0.2)),
        ("CMYK", (255, 0, 0, 0), (0.0, 1.0, 1.0)),
    ],
)
def test_every_kind_of_pixel(mode: str, fill: object, expected: tuple[float, ...], tmp_path: Path) -> None:
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    if mode == "P":
        image = Image.new("RGB", (8, 8), "blue").convert("P", palette=Image.Palette.ADAPTIVE)
    else:
        image = Image.new(mode, (8, 8), fill)  # type: ignore[arg-type]
    image.save(path)
    found = load_image(path, PLAIN)
    assert found.dtype == torch.float32
    assert found[0, :, 4, 4].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_network_of_one_channel_reads_grey(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("RGB", (8, 8), (51, 51, 51)).save(path)
    record = Preprocessing(size=(8, 8), resize=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    image = load_image(path, record, channels=1)
    assert image.shape == (1, 1, 8, 8)
    assert image[0, 0, 0, 0].item() == pytest.approx(0.0, abs=1e-6)  # (.2 - the mean of the means) / .5
    with pytest.raises(InputError, match="reads 5 channels"):
        load_image(path, record, channels=5)


def test_a_thread_of_pixels_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "thread.png"
    Image.new("L", (60_000, 1)).save(path)
    with pytest.raises(InputError, match="60000 x 1, too long and narrow"):
        load_image(path, Preprocessing())


def test_the_record_survives_being_written() -> None:
    record = Preprocessing(size=(200, 232), resize=240, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
    assert Preprocessing.from_json(record.to_json()) == record
    assert Preprocessing.of({"preprocessing": record.to_json()}) == record
    assert Preprocessing.of({}) == Preprocessing()


def test_the_record_reads_as_one_line() -> None:
    words = "224x224: shorter side to 256, centre cut, bilinear, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert str(Preprocessing()) == words
    assert str(replace(Preprocessing(), mode="squash")).startswith("224x224: squashed to 256, ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"sizes": [1, 2]}',
        '{"interpolation": "sinc"}',
        '{"std": [0, 1, 1]}',
        '{"size": 224}',
        '{"size": ["a", "b"]}',
        '{"mean": [0.5]}',
    ],
)
def test_a_record_that_does_not_hold(text: str) -> None:
    with pytest.raises(ArtifactError, match="the preprocessing record does not hold"):
        Preprocessing.from_json(text)
