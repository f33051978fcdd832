"""From folders to a study's database: pairing of files, the images shown, and blinding."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sdedit_pl.data.array_formats import ARRAY_FORMATS
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageShape, PixelFormat
from sdedit_pl.study.paired_images import degraded_copy, pair_files
from sdedit_pl.study.study_builder import build_study
from sdedit_pl.study.study_settings import StudyPlan
from sdedit_pl.study.trial_design import StudyError

ITEMS = ("alder", "birch", "cedar", "dogwood")


def rows(file: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(file)) as database:
        return database.execute(query).fetchall()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


class TestPairing:
    def test_names_exclude_extension_and_seed(self, folders: Path) -> None:
        paired = pair_files({"methods.ours": "ours", "methods.theirs": "theirs", "guides": "guides"})
        assert tuple(paired) == ITEMS
        assert paired["cedar"] == {
            "methods.ours": Path("ours/cedar_seed0.png"),
            "methods.theirs": Path("theirs/cedar.webp"),
            "guides": Path("guides/cedar.png"),
        }

    def test_a_pattern_chooses_among_files(self, folders: Path) -> None:
        Path("ours/sheet.png").write_bytes(b"")
        copyfile("ours/birch_seed0.png", "ours/birch_seed1.png")
        assert tuple(pair_files({"methods.ours": "ours/*_seed0.png", "guides": "guides"})) == ITEMS

    def test_files_without_a_partner_are_named(self, folders: Path) -> None:
        Path("theirs/cedar.webp").unlink()
        Path("ours/sheet.png").write_bytes(b"")
        with pytest.raises(StudyError) as refusal:
            pair_files({"methods.ours": "ours", "methods.theirs": "theirs", "guides": "guides"})
        assert str(refusal.value).startswith(
            "files are paired by name, and some have no partner: cedar, sheet are not in methods.theirs=theirs; "
            "sheet is not in guides=guides. "
        )

    def test_long_lists_are_shortened(self, folders: Path) -> None:
        for number in range(9):
            Path(f"ours/more{number}.png").write_bytes(b"")
        with pytest.raises(StudyError, match="more3 and 5 more are not in guides=guides"):
            pair_files({"methods.ours": "ours", "guides": "guides"})

    @pytest.mark.parametrize("folder", ["nowhere", "empty"])
    def test_a_folder_without_images_is_refused_with_its_key(self, folders: Path, folder: str) -> None:
        Path("empty").mkdir()
        with pytest.raises(StudyError, match=f"methods.theirs={folder}: .*{folder}"):
            pair_files({"methods.ours": "ours", "methods.theirs": folder})

    def test_two_files_of_one_name_are_refused(self, folders: Path) -> None:
        copyfile("ours/birch_seed0.png", "ours/birch_seed1.png")
        with pytest.raises(StudyError, match=r"methods.ours=ours has two files for birch, .*0\.png and birch_seed1"):
            pair_files({"methods.ours": "ours", "guides": "guides"})


class TestPlan:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"methods": {"ours": "ours"}}, "at least 2 methods, got 1; give methods.ours="),
            ({"methods": {"ours": "ours", "(guide)": "x"}}, r"a method's name .* got '\(guide\)'"),
            ({"guides": None}, "faithfulness and satisfaction .* without guides="),
            ({"questions": ("realism", "beauty")}, r"questions must be some of realism, .* got \[realism,beauty\]"),
            ({"questions": ("realism", "realism")}, "questions must be some of"),
            ({"questions": ()}, "questions must be some of"),
            ({"comparisons": 0}, "comparisons must be at least 1, got 0"),
            ({"catches": -1}, "catches must be at least 0, got -1"),
        ],
    )
    def test_invalid_settings_are_refused(self, changes: dict, message: str) -> None:
        with pytest.raises(StudyError, match=message):
            StudyPlan(**{"methods": {"ours": "ours", "theirs": "theirs"}, "guides": "guides", **changes})

    def test_realism_needs_no_guides(self, build: Callable[..., Path]) -> None:
        file = build(guides=None, questions=("realism",))
        assert rows(file, "SELECT DISTINCT question, guide_image FROM trials") == [("realism", None)]


class TestImages:
    def test_they_are_shown_unchanged(self, build: Callable[..., Path]) -> None:
        file = build()
        shown = rows(
            file,
            "SELECT item, left_source, left.png, right_source, right.png, guide.png FROM trials "
            "JOIN images AS left ON left.id = left_image JOIN images AS right ON right.id = right_image "
            "JOIN images AS guide ON guide.id = guide_image WHERE correct IS NULL",
        )
        files = {"ours": "ours/{}_seed0.png", "theirs": "theirs/{}.webp", "others": "others/{}.png"}
        assert len(shown) == 2 * 2 * 3 * 4  # two sides, the two questions with a guide, three pairs, four items
        for item, left, left_png, right, right_png, guide in shown:
            for source, png in ((left, left_png), (right, right_png)):
                assert np.array_equal(pixels(png), np.asarray(Image.open(files[source].format(item)).convert("RGB")))
            assert np.array_equal(pixels(guide), np.asarray(Image.open(f"guides/{item}.png")))

    def test_files_do_not_reveal_the_method(self, folders: Path, build: Callable[..., Path]) -> None:
        metadata = PngImagePlugin.PngInfo()
        metadata.add_text("method", "ours")
        for item in ITEMS:
            Image.open(f"ours/{item}_seed0.png").save(f"ours/{item}_seed0.png", pnginfo=metadata)
        file = build(real="real")
        for identity, png in rows(file, "SELECT id, png FROM images"):
            image = Image.open(io.BytesIO(png))
            assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", (16, 16), {})
            assert len(identity) == 24 and int(identity, 16)

    def test_guides_and_real_images_are_brought_to_the_outputs_size(self, folders: Path, build) -> None:
        for item in ITEMS:
            Image.new("RGB", (40, 32), "red").save(f"guides/{item}.png")
        file = build(real="real")
        assert {Image.open(io.BytesIO(png)).size for (png,) in rows(file, "SELECT png FROM images")} == {(16, 16)}

    def test_outputs_need_not_be_square(self, folders: Path, build) -> None:
        for folder, ending in (("ours", "_seed0.png"), ("theirs", ".webp"), ("others", ".png"), ("guides", ".png")):
            Image.new("RGB", (24, 16), (len(folder) * 9, 0, 0)).save(f"{folder}/birch{ending}")
        shown = rows(build(), "SELECT png FROM images JOIN trials ON images.id = guide_image WHERE item = 'birch'")
        assert {Image.open(io.BytesIO(png)).size for (png,) in shown} == {(24, 16)}

    @pytest.mark.parametrize("ending", [".tif", ".nii.gz"])
    def test_other_data_are_shown_as_in_previews(self, ending: str, folders: Path) -> None:
        writer = next(format for format in ARRAY_FORMATS[::-1] if ending in format.suffixes)
        values = {name: np.full((24, 16, 4), 40 * len(name), np.float32) for name in ("a", "bcd", "guide")}
        for name, array in values.items():
            Path(name).mkdir()
            array[..., 3] += 20
            Path(f"{name}/x{'_seed0' * (name == 'a')}{ending}").write_bytes(writer.write(array, None))
        domain = ImageShape((24, 16), 4, format=PixelFormat("float32", range=(0.0, 255.0), shown=(3, 0, 1)))
        plan = StudyPlan({"a": "a", "bcd": "bcd"}, guides="guide", catches=0)
        build_study(plan, Path("study.sqlite"), domain)
        shown = {pixels(png).tobytes() for (png,) in rows(Path("study.sqlite"), "SELECT png FROM images")}
        assert shown == {array[..., [3, 0, 1]].astype(np.uint8).tobytes() for array in values.values()}
        with pytest.raises(UnreadableImage, match=r"has 4 bands of float32 and is not an 8-bit picture; .*ckpt="):
            build_study(plan, Path("again.sqlite"))

    def test_outputs_of_several_sizes_are_refused(self, folders: Path, build) -> None:
        Image.new("RGB", (24, 16)).save("theirs/birch.webp")
        with pytest.raises(StudyError, match="for birch they are ours 16x16, theirs 24x16, others 16x16"):
            build()

    def test_a_folder_given_twice_is_noticed(self, folders: Path, build) -> None:
        with pytest.raises(StudyError, match="ours and again have the same images"):
            build(methods={"ours": "ours", "theirs": "theirs", "again": "ours"})

    def test_a_broken_image_is_named(self, folders: Path, build) -> None:
        whole = Path("others/cedar.png").read_bytes()
        Path("others/cedar.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UnreadableImage, match=r"others/cedar\.png"):
            build()

    def test_a_degraded_copy_is_far_from_its_original(self) -> None:
        for picture in (Image.new("RGB", (64, 64), "teal"), Image.linear_gradient("L").resize((64, 64)).convert("RGB")):
            copy = degraded_copy(picture, seed=1)
            difference = np.asarray(copy).astype(float) - np.asarray(picture)
            assert copy.size == picture.size and np.sqrt((difference**2).mean()) > 25
            assert np.array_equal(np.asarray(copy), np.asarray(degraded_copy(picture, seed=1)))


class TestFile:
    def test_it_is_a_function_of_folders_and_seed(self, build: Callable[..., Path]) -> None:
        tables = [
            [rows(file, f"SELECT * FROM {table}") for table in ("study", "images", "trials")]
            for file in (build("a.sqlite"), build("b.sqlite"), build("c.sqlite", seed=1))
        ]
        assert tables[0] == tables[1]
        identities = [{row[0] for row in images} for _, images, _ in tables]
        assert not identities[0] & identities[2], "another study has other addresses"

    def test_it_is_a_single_file(self, folders: Path, build: Callable[..., Path]) -> None:
        before = {path.name for path in folders.iterdir()}
        build()
        assert {path.name for path in folders.iterdir()} - before == {"study.sqlite"}

    def test_it_stores_the_settings(self, folders: Path) -> None:
        plan = StudyPlan(methods={"ours": "ours", "theirs": "theirs"}, guides="guides", comparisons=5, catches=1)
        made = build_study(plan, Path("study.sqlite"))
        assert (made["items"], made["asked"], made["forms"]) == (4, 12, 6)
        assert rows(Path("study.sqlite"), "SELECT count(*), count(correct) FROM trials") == [(24 + 6, 6)]

    def test_pairs_first_compares_the_first_method_alone(self, build: Callable[..., Path]) -> None:
        sources = rows(build(pairs="first"), "SELECT left_source, right_source FROM trials WHERE correct IS NULL")
        assert {frozenset(pair) for pair in sources} == {frozenset(("ours", x)) for x in ("theirs", "others")}
