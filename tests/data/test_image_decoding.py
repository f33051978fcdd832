"""Decoding: every kind of file gives the same kind of tensor, and damaged files one kind of error."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.data.image_decoding import decode_image
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat, images_from_bytes
from sdedit_pl.data.splits import held_out

EIGHT = ImageFormat(8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def random_rgb(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_rgb_image_of_the_right_size_keeps_its_pixels() -> None:
    pixels = random_rgb(8, 8)
    decoded = decode_image(encode(Image.fromarray(pixels)), "a", EIGHT)
    assert torch.equal(decoded, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("fit", "rows"), [("crop", [60, 100, 140]), ("resize", [40, 100, 160]), ("pad", [20, 100, 180])]
)
def test_an_image_gets_the_proportions_of_a_rectangle(fit: str, rows: list[int]) -> None:
    """A ramp of 40 x 20 px for 12 x 8: cropped it begins later, padded it is whole between mirror images."""
    ramp = np.broadcast_to(np.linspace(0, 200, 40, dtype=np.uint8)[:, None, None], (40, 20, 3))
    decoded = decode_image(encode(Image.fromarray(ramp)), "a", ImageFormat((12, 8), fit=fit, marked=fit == "pad"))
    assert decoded.shape == (3 + (fit == "pad"), 12, 8)
    assert (decoded[0, [2, 6, 9], 4].float() - torch.tensor(rows)).abs().max() < 45
    if fit == "pad":
        assert decoded[3].sum() == 12 * 6 and not decoded[3, :, 0].any()


def test_transparency_is_composited_on_the_background() -> None:
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[..., 0], pixels[:, :4, 3], pixels[:, 4:, 3] = 200, 255, 51  # red, opaque on the left, 20% on the right
    decoded = decode_image(encode(Image.fromarray(pixels)), "a", ImageFormat(8, background="#0000ff"))
    assert decoded[:, 0, 0].tolist() == [200, 0, 0]
    assert decoded[:, 0, 7].tolist() == [40, 0, 204]
    assert decode_image(encode(Image.fromarray(pixels)), "a", EIGHT)[:, 0, 7].tolist() == [244, 204, 204]


def test_palette_images_with_and_without_a_transparent_colour() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    assert decode_image(encode(image), "a", EIGHT)[:, 0, 0].tolist() == [10, 20, 30]
    assert decode_image(encode(image), "a", EIGHT)[:, 1, 1].tolist() == [40, 50, 60]
    assert decode_image(encode(image, transparency=0), "a", EIGHT)[:, 0, 0].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_is_rounded_to_eight() -> None:
    values = np.array([[0, 128, 129, 257], [32768, 65406, 65407, 65535]] * 2, dtype=np.uint16)
    decoded = decode_image(encode(Image.fromarray(values)), "a", ImageFormat(4, channels=1))
    assert decoded[0, :2].tolist() == [[0, 0, 1, 1], [128, 254, 255, 255]]


@pytest.mark.parametrize("mode", ["I;16", "RGB"])
def test_a_transparent_level_of_sixteen_bits_is_composited(mode: str) -> None:
    """Pillow writes no 16-bit colours: the chunk alone is of 16 bits there."""
    level = 30000
    pixels = np.full((8, 8), 0, np.uint16) if mode == "I;16" else np.full((8, 8, 3), 0, np.uint8)
    pixels[0] = level if mode == "I;16" else level >> 8
    transparent = level if mode == "I;16" else (level, level, level)
    decoded = decode_image(encode(Image.fromarray(pixels), transparency=transparent), "a", EIGHT)
    assert decoded[:, :2, 0].tolist() == [[255, 0]] * 3


def test_pixels_of_unknown_range_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="cannot read image a: its pixels are floating-point"):
        decode_image(encode(Image.new("F", (8, 8), 0.5), "TIFF"), "a", EIGHT)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_png_mode_gives_the_channels_asked_for(mode: str, channels: int) -> None:
    white = Image.new("RGBA", (8, 8), "white").convert(mode)
    decoded = decode_image(encode(white), "a", ImageFormat(8, channels))
    assert decoded.shape == (channels, 8, 8) and decoded.dtype == torch.uint8
    assert bool((decoded == 255).all())


def test_cmyk_jpeg() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red_level, *others = decode_image(encode(red, "JPEG", quality=100), "a", EIGHT)[:, 4, 4].tolist()
    assert red_level > 240 and max(others) < 15


def test_an_image_on_its_side_is_turned_upright() -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255  # white on top as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: white on the right
    decoded = decode_image(encode(Image.fromarray(pixels), "PNG", exif=exif), "a", EIGHT)
    assert decoded[0, :, 7].tolist() == [255] * 8
    assert decoded[0, :, 0].tolist() == [0] * 8


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_the_longer_side_is_cropped_at_both_ends_without_resampling(shape: tuple[int, int]) -> None:
    pixels = random_rgb(*shape)
    crop = pixels[:, 6:14] if shape == (20, 8) else pixels[6:14]
    decoded = decode_image(encode(Image.fromarray(pixels)), "a", EIGHT)
    assert torch.equal(decoded, torch.from_numpy(crop.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_shrinking_averages_over_what_it_removes(kind: str) -> None:
    pixels = np.zeros((256, 512, 3), dtype=np.uint8)
    pixels[::2, ::2] = pixels[1::2, 1::2] = 255  # a checkerboard of single pixels: aliasing would give black or white
    decoded = decode_image(
        encode(Image.fromarray(pixels), kind, **({} if kind == "PNG" else {"quality": 100})), "a", EIGHT
    )
    assert (decoded.float() - 127.5).abs().max() < 8


def test_enlarging_keeps_a_flat_colour() -> None:
    decoded = decode_image(encode(Image.new("RGB", (3, 5), (10, 20, 30))), "a", EIGHT)
    assert decoded.flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_files_are_unreadable(kind: str) -> None:
    whole = encode(Image.fromarray(random_rgb(64, 64)), kind)
    with pytest.raises(UnreadableImage, match="cannot read image some/where: "):
        decode_image(whole[: len(whole) // 2], "some/where", EIGHT)


def test_text_and_empty_files_are_unreadable() -> None:
    with pytest.raises(UnreadableImage, match=r"cannot read image a\.png: it is not an image"):
        decode_image(b"hello, I am text", "a.png", EIGHT)
    with pytest.raises(UnreadableImage, match=r"cannot read image a\.png: it is empty"):
        decode_image(b"", "a.png", EIGHT)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_damage_anywhere_gives_that_error_or_an_image() -> None:
    generator = np.random.default_rng(0)
    unreadable = 0
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        whole = np.frombuffer(encode(Image.fromarray(random_rgb(16, 16)), kind), dtype=np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[generator.integers(0, min(len(whole), 200), 3)] = generator.integers(0, 256, 3)
            try:
                assert decode_image(damaged.tobytes(), "a", EIGHT).shape == (3, 8, 8)
            except UnreadableImage:
                unreadable += 1
    assert unreadable > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1 pixel, got 0"),
        ({"size": 8, "channels": 2}, r"channels must be 3 \(RGB\) or 1 \(grey\), got 2"),
        ({"size": 8, "background": "blurple"}, "background must be a colour name or #rrggbb, got 'blurple'"),
    ],
)
def test_a_format_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFormat(**arguments)


def test_bytes_map_onto_the_whole_range_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    images = images_from_bytes(every)
    assert images.dtype == torch.float32 and images.min() == -1 and images.max() == 1
    assert torch.equal(((images + 1) * 127.5).round().to(torch.uint8), every)


def test_held_out_images_stay_held_out_when_a_set_grows() -> None:
    names = [f"{number}.png" for number in range(2000)]
    chosen = held_out(names, 0.1)
    assert 150 < sum(chosen) < 250
    assert held_out(names[::-1][:500], 0.1) == chosen[::-1][:500]
    assert not any(held_out(names, 0.0))


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_held_out_leaves_neither_side_empty(fraction: float) -> None:
    assert sorted(held_out(["a", "b"], fraction)) == [False, True]
    assert held_out(["a"], fraction) == [False] and held_out([], fraction) == []
