"""Configurations: what a key may be, how files and command lines merge, and what is refused in which words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

from sdedit_pl.cli.edit import COMMAND as EDIT
from sdedit_pl.cli.train import COMMAND as TRAIN
from sdedit_pl.configuration import Component, ConfigError, family
from sdedit_pl.configuration.command_line import read_arguments, take_file
from sdedit_pl.configuration.resolving import as_data, merge, resolve, resolve_component
from sdedit_pl.configuration.schema import REQUIRED, Family, keys_of
from sdedit_pl.configuration.yaml_reading import read_file, yaml_text
from sdedit_pl.data.source_table import DATA_SOURCES


@dataclass
class Shape:
    """Sizes.

    Args:
        sizes: some sizes.
        pair: exactly two.
        open: whether.
    """

    sizes: Sequence[int] = (1, 2)
    pair: tuple[float, float] = (0.5, 1.0)
    open: bool = False

    def __post_init__(self) -> None:
        if self.pair[0] > self.pair[1]:
            raise ValueError(f"pair must rise, got {self.pair}")


@dataclass
class Pet:
    """A pet.

    Args:
        age: in years.
    """

    age: float = 1.0


@dataclass
class Dog(Pet):
    """A dog.

    Args:
        size: of the dog.
    """

    size: int = 3


@dataclass
class Cat(Pet):
    """A cat.

    Args:
        lives: left.
    """

    lives: int = 9


def home(street: str = "here") -> None:
    """Where any pet lives.

    Args:
        street: its name.
    """


@dataclass(kw_only=True)
class Everything:
    """Everything.

    Args:
        name: what it is called; the text may
            run over lines: and hold colons.
        count: how many.
        start: a number, or a name of one.
        note: anything said, or nothing.
        mode: how.
    """

    name: str
    count: int = 2
    start: float | str = 0.5
    note: str | None = None
    mode: Literal["slow", "fast"] = "slow"
    shape: Shape
    pet: Component[Pet] = family({"dog": Dog, "cat": Cat}, "dog", shared=home)


def resolved(*arguments: str, base: dict[str, Any] | None = None) -> Everything:
    """The object that a file's contents and a command line describe."""
    given, typed = read_arguments(Everything, ["name=x", *arguments])
    return resolve(Everything, merge(Everything, base or {}, given), typed)


def data(*arguments: str, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The same as plain data."""
    return as_data(resolved(*arguments, base=base))


def test_every_key_is_there_with_its_default() -> None:
    assert data() == {
        "name": "x",
        "count": 2,
        "start": 0.5,
        "note": None,
        "mode": "slow",
        "shape": {"sizes": [1, 2], "pair": [0.5, 1.0], "open": False},
        "pet": {"name": "dog", "street": "here", "age": 1.0, "size": 3},
    }


def test_resolving_again_changes_nothing() -> None:
    once = resolved("pet=cat", "shape.sizes=[4]", "note=n")
    assert resolve(Everything, as_data(once)) == once


def test_meanings_come_from_the_docstrings_of_a_class_and_its_parents() -> None:
    keys = keys_of(Dog)
    assert {name: key.text for name, key in keys.items()} == {"age": "in years.", "size": "of the dog."}
    assert keys_of(Everything)["name"].text == "what it is called; the text may run over lines: and hold colons."
    assert keys_of(Everything)["name"].default is REQUIRED and keys["size"].kind is int


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("count=3", "count", 3),
        ("count=1e3", "count", 1000),
        ("start=1", "start", 1.0),
        ("start=1e-3", "start", 0.001),
        ("start=sigma:1.2", "start", "sigma:1.2"),
        ("name=00012", "name", "00012"),
        ("name=1e5", "name", "1e5"),
        ("name=a=b", "name", "a=b"),
        ("name=${oc.env:HOME}", "name", "${oc.env:HOME}"),
        ("name=???", "name", "???"),
        ("name=*.png", "name", "*.png"),
        ("name=[a].png", "name", "[a].png"),
        ("name=a #b: c", "name", "a #b: c"),
        ("note=null", "note", None),
        ("note=3", "note", "3"),
        ("mode=fast", "mode", "fast"),
    ],
)
def test_values_of_the_command_line(argument: str, key: str, value: Any) -> None:
    found = getattr(resolved(argument), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("shape.sizes=[4,8]", {"sizes": [4, 8]}),
        ("shape.sizes=[]", {"sizes": []}),
        ("shape.pair=[1,2]", {"pair": [1.0, 2.0]}),
        ("shape={open: true, sizes: [7]}", {"open": True, "sizes": [7]}),
    ],
)
def test_lists_and_sections_of_the_command_line(argument: str, value: dict[str, Any]) -> None:
    assert data(argument)["shape"] == {"sizes": [1, 2], "pair": [0.5, 1.0], "open": False, **value}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("name=null", "name must be a valid string, got None"),
        ("count=many", "count must be a valid integer, got 'many'"),
        ("count=!!int", "count must be a valid integer, got '!!int'"),
        ("count=2.5", "count must be a valid integer, got 2.5"),
        ("count=true", "count must be a valid integer, got True"),
        ("count=", "count= has no value; give one, or count=null for none"),
        ("count.more=1", "count must be a valid integer, got {'more': 1}"),
        ("mode=medium", "mode must be 'slow' or 'fast', got 'medium'"),
        ("shape.open=1", "shape.open must be a valid boolean, got 1"),
        ("shape.sizes=3", "shape.sizes must be a valid array, got 3"),
        ("shape.sizes=[a]", "shape.sizes[0] must be a valid integer, got 'a'"),
        ("shape.pair=[1]", "shape.pair[1] must be given, got [1]"),
        ("shape.pair=[2,1]", "shape: pair must rise, got (2.0, 1.0)"),
        ("shape=big", "shape must be a section (`shape.key=...`), got 'big'"),
        ("pet=dgo", "pet.name must be one of dog, cat, got 'dgo'; did you mean dog?"),
        ("pet=3", "pet.name must be one of dog, cat, got 3"),
        ("pet.name=[dog]", "pet.name must be one of dog, cat, got ['dog']"),
        ("pet.lives=3", "unknown key pet.lives of pet.name=dog; "),
        ("pet.aeg=3", "unknown key pet.aeg of pet.name=dog; did you mean pet.age?"),
        ("cuont=3", "unknown key cuont; did you mean count?"),
        ("shpae.open=true", "unknown key shpae; did you mean shape?"),
        ("zzz=3", "unknown key zzz; known: name, count, start, note, mode, shape, pet"),
        ("count", "arguments are key=value, got 'count'; --help lists the keys"),
        ("--count=3", "arguments are key=value, got '--count=3'; write count=3"),
        ("--count 3", "arguments are key=value, got '--count'; write count=3"),
        ("count 3", "arguments are key=value, got 'count'; write count=3"),
        ("--dry-run --count=3", "arguments are key=value, got '--dry-run'; write dry_run=true"),
        ("=3", "arguments are key=value, got '=3'"),
    ],
)
def test_refusals_say_what_was_expected_and_what_came(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        data(*argument.split())
    assert str(refusal.value).startswith(message) and str(refusal.value).count("dog, cat") < 2


def test_a_value_that_does_not_fit_its_yaml_tag_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^count must be a valid integer, got '!!int x'"):
        data("count=!!int x")


def test_a_missing_value_is_named_with_its_meaning() -> None:
    with pytest.raises(ConfigError, match="name is required: what it is called"):
        resolve(Everything, {})


def test_numbers_with_commas_are_a_list_within_a_value_too() -> None:
    words = ["data=fields", "data.size=8", "data.format.dtype=float32", "data.format.range=0,0.4"]
    assert TRAIN.parse(words).data.values["format"].range == (0.0, 0.4)


def test_the_last_of_two_arguments_wins() -> None:
    assert data("count=3", "count=4")["count"] == 4
    assert data("pet=cat", "pet=dog")["pet"]["name"] == "dog"


@pytest.mark.parametrize("arguments", [("pet=cat", "pet.lives=7"), ("pet.lives=7", "pet=cat")])
def test_a_name_and_its_keys_come_in_any_order(arguments: tuple[str, ...]) -> None:
    assert data(*arguments)["pet"] == {"name": "cat", "street": "here", "age": 1.0, "lives": 7}


def test_a_files_values_stand_under_the_command_lines() -> None:
    base = {"count": 5, "shape": {"sizes": [3], "open": True}, "pet": {"name": "dog", "size": 8}}
    found = data("shape.open=false", "pet.age=2", base=base)
    assert found["count"] == 5 and found["shape"] == {"sizes": [3], "pair": [0.5, 1.0], "open": False}
    assert found["pet"] == {"name": "dog", "street": "here", "age": 2.0, "size": 8}


def test_another_name_than_the_files_keeps_the_keys_that_it_takes_too() -> None:
    base = {"pet": {"name": "dog", "size": 8, "age": 4, "street": "there"}}
    assert data("pet=cat", base=base)["pet"] == {"name": "cat", "street": "there", "age": 4.0, "lives": 9}
    assert data("pet=dog", base=base)["pet"]["size"] == 8
    for name in ("cow", "[cat]"):
        with pytest.raises(ConfigError, match="name must be one of dog, cat"):
            data(f"pet.name={name}", base=base)


def test_the_default_name_is_the_files_where_it_gives_none() -> None:
    base = {"pet": {"size": 8}}
    assert data("pet=dog", base=base)["pet"]["size"] == 8
    assert "size" not in data("pet=cat", base=base)["pet"]


def test_a_file_may_give_a_component_by_its_name_alone() -> None:
    assert data(base={"pet": "cat"})["pet"]["lives"] == 9
    assert data("pet.lives=3", base={"pet": "cat"})["pet"]["lives"] == 3
    assert data("pet=dog", base={"pet": "cat"})["pet"]["size"] == 3


def test_an_empty_section_is_one_left_out() -> None:
    assert data(base={"shape": None, "pet": None}) == data()


def test_what_typed_text_means_does_not_leak_to_the_files_values() -> None:
    with pytest.raises(ConfigError, match="name must be a valid string, got 12"):
        resolve(Everything, {"name": 12})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count: [3\n", "is not a readable YAML file"),
        ("- a\n- b\n", "must hold `key: value` lines, got list"),
        ("count: 1\ncount: 2\n", "is not a readable YAML file"),
        ("\x00", "is not a readable YAML file"),
        (f"count: {'1' * 5000}", "is not a readable YAML file"),
        ("count: !!int x", "is not a readable YAML file"),
        ("count: !!int ''", "a value does not fit its tag"),
        ("count: !!bool x", "a value does not fit its tag"),
        ("count: !!timestamp x", "a value does not fit its tag"),
        ("count: !!timestamp {=: x}", "a value does not fit its tag"),
        (
            "a: &a [1, 2, 3, 4, 5]\n"
            + "".join(f"{k}: &{k} [*{j}, *{j}, *{j}, *{j}]\n" for j, k in pairwise("abcdefgh")),
            "readable YAML file",
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as refusal:
        read_file(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in str(refusal.value) and message in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="there is no configuration file"):
            read_file(path)


def test_a_file_is_read_with_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("start: 1e-3\nshape: {sizes: [1, 2]}\n# a comment\n")
    assert read_file(tmp_path / "a.yaml") == {"start": 0.001, "shape": {"sizes": [1, 2]}}
    (tmp_path / "empty.yaml").touch()
    assert read_file(tmp_path / "empty.yaml") == {}
    files = {f"{number}.png": "sha256" for number in range(5001)}  # the record of many guides: 10,002 nodes
    (tmp_path / "many.yaml").write_text(yaml_text(files))
    assert read_file(tmp_path / "many.yaml") == files


def test_the_configuration_file_is_taken_out_of_the_arguments() -> None:
    given, typed = read_arguments(Everything, ["config=0001", "count=3"])
    assert take_file(given, typed) == "0001" and given == {"count": 3}
    assert take_file(given, typed) is None
    with pytest.raises(ConfigError, match="config takes a file"):
        take_file(*read_arguments(Everything, ["config.count=3"]))


def test_a_mistyped_config_is_near_to_it() -> None:
    with pytest.raises(ConfigError, match=r"unknown key confg; did you mean config\?"):
        resolve(Everything, {"name": "x", "confg": "a.yaml"}, taken=("config",))


@pytest.mark.parametrize(
    ("verb", "old", "new", "others"),
    [
        ("train", "init_from", "ckpt", ["data=d", "data.size=8"]),
        ("import_", "src", "ckpt", []),
        ("pack", "src", "data", ["size=8"]),
    ],
)
def test_former_names_of_keys_work_with_a_notice(
    verb: str, old: str, new: str, others: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    command = import_module(f"sdedit_pl.cli.{verb}").COMMAND
    caplog.set_level("INFO")
    assert getattr(command.parse([f"{old}=00012", "out=b", *others]), new) == "00012"
    if verb == "train":
        assert command.parse(["config=old", *others], read=lambda _: {"init_from": ["a", "b"]}).ckpt == ("a", "b")
        caplog.records.pop()
    assert [record.getMessage() for record in caplog.records] == [f"the key {old} is now called {new}"]
    with pytest.raises(ConfigError, match=f"{old} is the former name of {new}; give only {new}"):
        command.parse([f"{old}=a", f"{new}=b", "out=b", *others])


@pytest.mark.parametrize("argument", ["data=photos/", "data.path=photos/", "config=file"])
def test_data_names_a_source_or_else_a_place(argument: str) -> None:
    data = TRAIN.parse([argument, "data.size=8"], read=lambda _: {"data": "photos/"}).data
    assert (data.name, data.values["path"], data.values["size"]) == ("folder", "photos/", 8)
    assert TRAIN.parse(["data=webdataset", "data=shards/", "data.size=8"]).data.name == "webdataset"


def test_a_file_cannot_run_a_command() -> None:
    words = ["config=theirs.yaml", "ckpt=a"]
    with pytest.raises(ConfigError, match=r"theirs\.yaml would run 'pipe:rm -r a'"):
        EDIT.parse(words, read=lambda _: {"guide": "pipe:rm -r a"})
    assert EDIT.parse([*words, "guide=pipe:cat a"], read=lambda _: {"guide": "pipe:cat a"}).guide == "pipe:cat a"


@pytest.mark.parametrize(("value", "message"), [("0", "at least 1, got 0"), ("much", "a valid integer")])
def test_max_pixels_is_a_number(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"max_pixels must be {message}"):
        EDIT.parse(["ckpt=a", "guide=b", f"max_pixels={value}"])


def test_a_section_of_names_of_the_users_own() -> None:
    @dataclass
    class Named:
        """Counts, by name.

        Args:
            counts: how many of each.
        """

        counts: dict[str, int]

    given, typed = read_arguments(Named, ["counts.cats=2", "counts.dogs=3.0"])
    assert resolve(Named, given, typed).counts == {"cats": 2, "dogs": 3}
    for wrong, message in (
        ({"cats": "many"}, "counts.cats must be .*integer.*'many'"),
        (2, "counts must be an object, got 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(Named, {"counts": wrong})


def test_a_leading_tilde_is_the_home_folder_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "edit.yaml").write_text("guide: ~/a.png\n")
    settings = EDIT.parse(["config=~/edit.yaml", "ckpt=~/b", "out=c/~"])
    assert (settings.guide, settings.ckpt, settings.out) == (f"{tmp_path}/a.png", f"{tmp_path}/b", "c/~")
    source = resolve_component("data", {"path": ["~/a", "~/b"], "size": 8}, Family(DATA_SOURCES, "webdataset"))
    assert source.values["path"] == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert source.values["cache_folder"] == f"{tmp_path}/.cache/sdedit_pl/shards"


def test_names_that_are_not_utf_8_pass_through_the_command_line_and_files(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    settings = EDIT.parse(["ckpt=a", f"guide={name}"])
    assert settings.guide == name
    (tmp_path / "edit.yaml").write_text(yaml_text({"ckpt": "a", "guide": name}))
    assert read_file(tmp_path / "edit.yaml") == {"ckpt": "a", "guide": name}


@pytest.mark.parametrize("text", ["${HOME}.png", "a\\${b}", "${", "\\\\${x}", "${a.b}${c}", "a\\b", "${oc.env:HOME}"])
def test_names_that_look_like_interpolations_pass_through_files(text: str, tmp_path: Path) -> None:
    data = {"guide": text, "list": [text], text: {"name": text}}
    (tmp_path / "edit.yaml").write_text(yaml_text(data))
    assert read_file(tmp_path / "edit.yaml") == data
