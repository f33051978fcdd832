"""Folders of results: all files appear after success, none after an error, and nothing of the user's is replaced."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.full_disk import full_disk

from sdedit_pl.result_folder import hashes_of, own_files, result_folder


def test_files_appear_together_and_replace_earlier_ones(tmp_path: Path) -> None:
    for name in ("old.png", "new.png", "mine.png"):
        (tmp_path / name).touch()
    with result_folder(tmp_path, replaced={"old.png", "new.png"}) as unpublished:
        (unpublished / "new.png").write_text("new")
        assert (tmp_path / "new.png").read_text() == "" and (tmp_path / "old.png").exists()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"new.png": "new", "mine.png": ""}


@pytest.mark.parametrize("mine", ["a.png", "a.png/notes.txt", "figures/b.png"])
def test_a_file_or_folder_in_the_way_is_named_and_kept(mine: str, tmp_path: Path) -> None:
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("mine")
    in_the_way = re.escape(mine.removesuffix("/notes.txt"))
    with pytest.raises(ValueError, match=f"holds {in_the_way}: not written by"), result_folder(tmp_path) as unpublished:
        (unpublished / "figures").mkdir()
        for name in ("a.png", "figures/b.png"):
            (unpublished / name).touch()
    assert [file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()] == [Path(mine)]
    assert (tmp_path / mine).read_text() == "mine"


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), result_folder(tmp_path / "new" / "out") as unpublished:
        (unpublished / "half.png").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with (
        full_disk(10),
        pytest.raises(OSError, match=f"File too large: .*{tmp_path}"),
        result_folder(tmp_path) as results,
    ):
        (results / "a.txt").write_text("longer than ten bytes")
    assert list(tmp_path.iterdir()) == []


def test_the_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with result_folder(tmp_path / "out") as unpublished:
        left = tmp_path / unpublished.name
    left.mkdir()
    (left / "half.png").touch()
    with result_folder(tmp_path, "other"):
        assert left.exists(), "it may belong to a process that is still running"
    with result_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_move_is_completed_by_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_text("old")
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr("sdedit_pl.result_folder.publish_results", None)
        with result_folder(tmp_path, "a", {"a.png"}) as unpublished:
            (unpublished / "a.png").write_text("new")
    with result_folder(tmp_path, "a"):
        assert (tmp_path / "a.png").read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_only_recorded_unchanged_files_inside_the_folder_are_ones_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    for file in (out / "a.png", out / "b.png", out / "figures" / "c.png", tmp_path / "outside.png"):
        file.write_text(file.name)
    (out / "link").symlink_to(tmp_path)
    recorded = hashes_of(out)
    (out / "b.png").write_text("retouched")
    outside = hashes_of(tmp_path)["outside.png"]
    forged = dict.fromkeys(("../outside.png", "link/outside.png", str(tmp_path / "outside.png"), "", ".."), outside)
    assert own_files(out, {**recorded, **forged, 3: "number"}) == {"a.png", "figures/c.png"}
    assert own_files(out, ["a.png"]) == set()
