"""Records of settings: read as written, refused when they are not records, and compared key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdedit_pl.settings_record import (
    ChangedSetting,
    SettingsChanged,
    SettingsRecord,
    changed_settings,
    require_same_settings,
)


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


def test_changes_are_named_key_by_key() -> None:
    before = {"sde": {"name": "vp", "beta": 20.0}, "sizes": [1, 2], "gone": 1}
    assert changed_settings(before, {"sde": {"name": "vp", "beta": 20}, "sizes": (1, 2)}) == []
    assert changed_settings(before, {"sde": {"name": "ve", "beta": 20.0}, "sizes": (1, 3), "new": 5}) == [
        ChangedSetting("sde.name", "vp", "ve"),
        ChangedSetting("sizes", [1, 2], [1, 3]),
        ChangedSetting("new", None, 5),
    ]


def test_the_refusal_names_the_place_each_change_and_the_remedy() -> None:
    require_same_settings("out", {"a": 1}, {"a": 1}, "give another out=")
    with pytest.raises(SettingsChanged, match=r"^out .*: a was 1, and is 2 now; b.c was x, .* another out="):
        require_same_settings(Path("out"), {"a": 1, "b": {"c": "x"}}, {"a": 2, "b": {"c": None}}, "give another out=")
