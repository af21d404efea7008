"""Reads the YAML of a user's ConfigMap: whoever may write one must not be able to stop its reader with it.

YAML 1.2 lets a few hundred bytes of aliases stand for gigabytes, and nesting or one number can exceed what the interpreter bears.
The controller, which judges a file before a node is bought, and the pod that obeys it read it alike.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

INFERENCE_CHARACTERS: Final = 64 * 1024
"""The longest `inference_config.yaml` that is read."""
TRAINING_CHARACTERS: Final = 256 * 1024
"""The longest `training_config.yaml` that is read."""
_DEPTH: Final = 32
_NUMBER: Final = 32
"""Characters of the longest number that is read as one."""
_SHOWN: Final = 60


class _Loader(yaml.CSafeLoader):
    """Refuses a key that is written twice or is no single value, and numbers beyond all use."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem(key, "a key must be text")
            if key.value in seen:
                raise _problem(key, f"the key {shown(key.value)} is written twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _NUMBER:
            raise _problem(node, f"a number of {len(node.value)} characters is not read")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_config(text: str, *, most: int) -> Any:
    """Return the content of `text`, of at most `most` characters.

    Raises:
        ValueError: with words that finish "the file ...".

    """
    if len(text) > most:
        raise ValueError(f"has {len(text)} characters; at most {most} are read")
    try:
        _check_shape(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader that is stricter
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {_where(error)}") from None
    except ValueError as error:  # dates that do not exist
        raise ValueError(f"holds a value that cannot be read: {error}") from None


def shown(value: object) -> str:
    """Return `value` for a message: a single value as it is, cut where it is long; of anything else its kind."""
    if value is None or isinstance(value, bool | str | int | float):
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"a {kind(value)}"


def kind(value: object) -> str:
    """Return what YAML's users call the type of `value`."""
    names = {list: "list", dict: "mapping", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)


def _check_shape(text: str) -> None:
    """Look at the parser's events, which cost what the text is long: only then is anything built of them."""
    depth = 0
    single: set[str] = set()
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            single.discard(event.anchor)
            if depth > _DEPTH:
                raise _problem(event, f"is nested more than {_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            single.add(event.anchor)
        elif isinstance(event, yaml.AliasEvent) and event.anchor not in single:
            name = str(event.anchor)[:_SHOWN]
            raise _problem(event, f"the alias *{name} must stand for a single value; write lists and mappings out")


def _problem(there: Any, words: str) -> yaml.MarkedYAMLError:
    """`there`: an event or a node of the YAML."""
    return yaml.MarkedYAMLError(problem=words, problem_mark=there.start_mark)


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} at line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
    return " ".join(str(error).split())[:200]
