"""Records of settings: read as written, refused when they are not records, and compared key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdedit_pl.settings_record import SettingsChanged, SettingsRecord, require_same_settings


def record(folder: Path, format: str = "record, version 1") -> SettingsRecord:
    return SettingsRecord(folder / "below" / "record.json", format, "give another out=")


def test_settings_are_read_as_written(tmp_path: Path) -> None:
    assert record(tmp_path).read() is None
    settings = {"size": 64, "model": {"name": "größe", "widths": [1, 2]}, "none": None}
    record(tmp_path).write(settings)
    assert record(tmp_path).read() == settings
    assert [file.name for file in (tmp_path / "below").iterdir()] == ["record.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"size": 64}', "\xff"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    record(tmp_path).write({})
    record(tmp_path).file.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"record.json cannot be read as a record .*; give another out="):
        record(tmp_path).read()


def test_another_version_is_refused(tmp_path: Path) -> None:
    record(tmp_path).write({})
    with pytest.raises(ValueError, match="has the format 'record, version 1', expected 'record, version 2'; give"):
        record(tmp_path, "record, version 2").read()


def test_a_missing_setting_is_null() -> None:
    require_same_settings("out", {}, {"n_of": None}, "give another out=")


def test_the_refusal_names_the_place_each_change_and_the_remedy() -> None:
    before = {"sde": {"name": "vp", "beta": 20.0}, "sizes": [1, 2], "mask": "x", "gone": 1}
    require_same_settings("out", before, {"sde": {"name": "vp", "beta": 20}, "sizes": (1, 2)}, "give another out=")
    now = {"sde": {"name": "ve", "beta": 20.0}, "sizes": (1, 3), "mask": None, "new": 5}
    with pytest.raises(SettingsChanged) as caught:
        require_same_settings(Path("out"), before, now, "give another out=")
    assert str(caught.value) == (
        "out was made with other settings: sde.name was vp, and is ve now; sizes was [1, 2], and is [1, 3] now; "
        "mask was x, and is None now; new was None, and is 5 now; give another out="
    )
