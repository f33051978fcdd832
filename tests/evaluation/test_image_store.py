"""The folder of an evaluation: its record, which refuses changed settings, and foreign files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.evaluation.image_store import EVALUATION_RECORD, EvaluationRecord, check_place, remove_images
from sdedit_pl.evaluation.numbered_images import NumberedImages
from sdedit_pl.settings_record import SettingsChanged


def test_a_record_keeps_the_folders_of_earlier_commands(tmp_path: Path) -> None:
    EvaluationRecord({"images": "4"}, {"a": "1", "b": "2"}).write(tmp_path)
    later = EvaluationRecord({"images": "4"}, {"b": "2", "c": "3"}).continuing(tmp_path)
    assert later.recipes == {"a": "1", "b": "2", "c": "3"}
    with pytest.raises(SettingsChanged, match="b was 2, and is 5 now"):
        EvaluationRecord({"images": "4"}, {"b": "5"}).continuing(tmp_path)
    with pytest.raises(SettingsChanged, match="images was 4, and is 3 now"):
        EvaluationRecord({"images": "3"}, {"b": "2"}).continuing(tmp_path)


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / EVALUATION_RECORD).write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match=r"evaluation.json has the format 'other'"):
        EvaluationRecord({}, {}).continuing(tmp_path)


def test_only_its_own_images_are_removed_and_it_remains_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EvaluationRecord({}, {"a/guide": "", "..": ""}).write(tmp_path)
    remove_images(tmp_path, [])
    images = tmp_path / "images"
    for folder, channels in (("original", 3), ("a/guide", 3), ("a/mask", 1), ("a/sdedit", 3)):
        NumberedImages(images / folder, 1, ImageFormat(4, channels)).write(0, torch.zeros(channels, 4, 4))
    mine = ("a/sdedit/notes.txt", "a/another_method/000000.png", "../000000.png")
    for file in mine:
        (images / file).parent.mkdir(parents=True, exist_ok=True)
        (images / file).touch()
    with monkeypatch.context() as patched, pytest.raises(PermissionError):

        def forbidden(*_: object, **__: object) -> None:
            raise PermissionError

        patched.setattr(os, "unlink", forbidden)
        remove_images(tmp_path, [])
    for content in (Image.new("RGB", (4, 4)), None):  # changed by the user, and no image at all
        shutil.copy(images / "a/sdedit/000000.png", tmp_path / "own.png")
        content.save(images / "a/sdedit/000000.png") if content else (images / "a/sdedit/000000.png").write_text("a")
        before = sorted(images.rglob("*"))
        with pytest.raises(
            ValueError, match=r"images holds a/sdedit/000000\.png: not written by this program, changed"
        ):
            remove_images(tmp_path, ["a/sdedit"])
        assert sorted(images.rglob("*")) == before
        (tmp_path / "own.png").replace(images / "a/sdedit/000000.png")
    remove_images(tmp_path, ["a/sdedit"])
    assert {path for path in images.rglob("*") if path.is_file()} == {images / file for file in mine[:2]}
    assert (tmp_path / "000000.png").exists()
    check_place(tmp_path)


def test_foreign_files_are_refused_but_not_unfinished_ones(tmp_path: Path) -> None:
    (tmp_path / ".o.tmp").mkdir()
    check_place(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="already holds files, but no evaluation"):
        check_place(tmp_path)
