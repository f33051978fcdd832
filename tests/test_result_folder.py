"""Folders of results: all files appear after success, none after an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdedit_pl.result_folder import ResultFolder


def test_files_appear_together_and_replace_earlier_ones(tmp_path: Path) -> None:
    earlier = tmp_path / "old.png"
    earlier.touch()
    with ResultFolder(tmp_path, [earlier]) as unpublished:
        (unpublished / "new.png").touch()
        assert not (tmp_path / "new.png").exists() and earlier.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["new.png"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ResultFolder(tmp_path / "new" / "out") as unpublished:
        (unpublished / "half.png").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
