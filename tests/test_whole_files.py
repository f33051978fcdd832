"""Files that are whole or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.full_disk import full_disk

from sdedit_pl.files import matching_files, whole_file, write_whole


def test_a_file_appears_at_the_end_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with whole_file(path) as unfinished:
            unfinished.write_text(text)
            assert path.is_file() == (text == "second") and unfinished.parent == path.parent
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_whole(path, "before")
    with pytest.raises(RuntimeError, match="no more"), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError("no more")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_refused_write_leaves_what_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_whole(path, "before")
    with full_disk(10), pytest.raises(OSError, match=r"File too large: .*file\.txt'"):
        write_whole(path, "longer than ten bytes")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_hard_link_that_a_killed_process_left_is_not_written_through(tmp_path: Path) -> None:
    path, precious = tmp_path / "file.txt", tmp_path / "precious.txt"
    precious.write_text("precious")
    os.link(precious, tmp_path / ".file.txt.tmp")
    write_whole(path, "new")
    assert precious.read_text() == "precious" and path.read_text() == "new"
    with whole_file(path) as unfinished:  # two names of one file, which renaming leaves as they are
        os.link(path, unfinished)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file.txt", "precious.txt"]


def test_the_contents_are_stored_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[tuple[bool, bool]] = []
    path = tmp_path / "file.txt"
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: stored.append((os.path.isdir(f"/proc/self/fd/{descriptor}"), path.exists()))
    )
    write_whole(path, "text")
    assert stored == [(False, False), (True, True)]


def test_a_glob_takes_the_names_of_existing_folders_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("[dir]/a.png", "[dir]/sub/b.png", "d/c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert matching_files("[dir]/*.png") == ["[dir]/a.png"]
    below = [f"{tmp_path}/[dir]/{name}" for name in ("a.png", "sub/b.png")]
    assert matching_files(f"{tmp_path}/[dir]/**/*.png") == below
    assert matching_files("[cd]/*.png") == ["d/c.png"]
    assert matching_files("*.png") == []
