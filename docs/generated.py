"""Directives that make tables of flags and config values, and a list of configs."""

import ast
import importlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

CONFIGS = Path(__file__).parents[1] / "configs"


def flags_table(command: str) -> str:
    """Returns a Markdown table of a command's flags, in the order of their definition."""
    flags = importlib.import_module(f"eddsrn_jax.commands.{command}").FLAGS
    rows = ["| flag | type | default | meaning |", "| --- | --- | --- | --- |"]
    for module in flags.flags_by_module_dict().values():
        for flag in module:
            values = getattr(flag.parser, "enum_values", None)
            kind = flag.flag_type().removeprefix("string ")
            kind = ", ".join(f"`{v}`" for v in values) if values else _KINDS[kind]
            # absl puts the valid values before the help of a flag that has some, and a
            # remark on a line of its own behind that of a flag that may be repeated.
            text = flag.help.rpartition(">: ")[2] if values else flag.help
            text, *_ = text.split(";\n")
            rows.append(
                f"| `--{flag.name}` | {kind} | {_default(flag)} | {_cell(text)} |"
            )
    return "\n".join(rows)


_KINDS = {
    "string": "text",
    "int": "whole number",
    "float": "number",
    "bool": "switch",
    "comma separated list of strings": "names, with commas between",
    "multi string": "text; may be repeated",
    "config object": "config",
}


def _default(flag: Any) -> str:
    if flag.default in (None, "", []):
        return ""
    if flag.flag_type() == "bool":
        return "on" if flag.default else "off"
    value = flag.default
    if isinstance(value, list):
        return f"`{','.join(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    """Returns text in which no character ends a cell or starts HTML."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


def values_table(config: str) -> str:
    """Returns Markdown tables of the values that a config file sets, with its comments.

    A comment above several values belongs to all of them. A comment above a section
    stands above the section's table.
    """
    lines = (CONFIGS / f"{config}.py").read_text().splitlines()
    start = lines.index("    config = ml_collections.ConfigDict()") + 1
    text, comment, new = ["### config", "", *_HEAD], [], True
    for line in lines[start:]:
        line = line.strip()
        if line.startswith("#"):
            comment = [*([] if new else comment), line[1:].strip()]
            new = False
        elif line.startswith("config.") and line.endswith("ConfigDict()"):
            section = line.removeprefix("config.").partition(" ")[0]
            about = [] if new else comment
            text += ["", f"### config.{section}", "", *about, "", *_HEAD]
            comment, new = [], True
        elif line.startswith("config."):
            name, _, value = line.partition(" = ")
            meaning = _cell(" ".join(comment))
            text.append(f"| `{name}` | `{value}` | {meaning} |")
            new = True
        else:
            comment, new = [], True
    return "\n".join(text)


_HEAD = ("| value | default | meaning |", "| --- | --- | --- |")


def configs_list() -> str:
    """Returns the description of every config in Markdown."""
    return "\n\n".join(_descriptions())


def _descriptions() -> Iterator[str]:
    for path in sorted(CONFIGS.glob("*.py")):
        tree = ast.parse(path.read_text())
        functions = {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}
        # The others are common parts of these.
        if "get_config" in functions:
            # Indented lines of a docstring are commands, which stay as they are.
            yield f"### {path.stem}\n\n{textwrap.dedent(ast.get_docstring(tree) or '')}"


class _Generated(SphinxDirective):
    """A directive whose content a function of its arguments makes."""

    make: Any = None
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(
            type(self).make(*self.arguments), allow_section_headings=True
        )


class _Flags(_Generated):
    make = staticmethod(flags_table)


class _Values(_Generated):
    make = staticmethod(values_table)


class _Configs(_Generated):
    make = staticmethod(configs_list)


def setup(app: Any) -> dict[str, bool]:
    """Adds the directives to Sphinx."""
    app.add_directive("command-flags", _Flags)
    app.add_directive("config-values", _Values)
    app.add_directive("config-list", _Configs)
    return {"parallel_read_safe": True}
