"""Keys read from source files equal those of the imported classes, and reading them imports no library."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from sdedit_pl.cli import VERBS, module_of
from sdedit_pl.configuration.help_text import explain, key_lines
from sdedit_pl.configuration.schema import Command, Key, keys_of, schema_of
from sdedit_pl.configuration.static_declarations import evaluate, source_keys, source_schema

STEPS = [(verb, step) for verb in VERBS for step in (("build", "serve", "report") if verb == "study" else ("",))]


def without_types(keys: Any) -> dict[str, Key]:
    return {name: replace(key, kind=Any) for name, key in keys.items()}


@pytest.mark.parametrize(("verb", "step"), STEPS)
def test_help_from_source_is_the_help_of_the_classes(verb: str, step: str) -> None:
    module = module_of(verb)
    imported = import_module(module)
    real: Command[Any] = imported.COMMANDS[step] if step else imported.COMMAND
    read = evaluate(module, "COMMANDS")[step] if step else evaluate(module, "COMMAND")
    from_classes, from_source = schema_of(real.arguments), source_schema(read.arguments)
    assert (read.usage, read.file, read.examples) == (real.usage, real.file, real.examples)
    assert dict(from_source.keys) == without_types(from_classes.keys)
    assert list(from_source.sections) == list(from_classes.sections)
    for name, family in from_classes.families.items():
        assert list(family.table) == list(from_source.families[name].table)
        for word, cls in family.table.items():
            found, expected = source_keys(from_source.families[name].table[word]), without_types(keys_of(cls))
            for supplied in family.supplied:
                assert (found.pop(supplied, None) is None) == (expected.pop(supplied, None) is None)
            assert found == expected, (name, word)
    for topic in ("", "all"):
        assert explain(read, from_source, source_keys, topic) == explain(real, from_classes, keys_of, topic)


def test_help_imports_neither_torch_nor_any_other_library() -> None:
    program = (
        "import sys; from sdedit_pl.cli import VERBS, main\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'omegaconf', 'yaml', 'PIL'}\n"
        "for verb in VERBS:\n"
        "    assert main([verb, '--help']) == 0\n"
        "    assert not heavy & sys.modules.keys(), (verb, heavy & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_short_help_splits_neither_parentheses_nor_names_of_files() -> None:
    key = Key(str, None, "one (first; second. third), two; more. null for none (default)")
    assert key.shortened.text == "one (first; second. third), two; null for none (default)"
    lines = key_lines({"key": Key(str, "", "word " * 14 + "model-early.safetensors")})
    assert lines[1].split()[0] == "model-early.safetensors"
