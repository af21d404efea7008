"""The Workspace's fields, from its CRD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from reference.table import code, table

_BOUNDS = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("maxItems", "at most {} entries"),
    ("maxProperties", "at most {} entries"),
)


def page(crd_text: str) -> str:
    """Return the page for the CRD in `crd_text`."""
    crd = yaml.safe_load(crd_text)
    spec = crd["spec"]
    stored = next(version for version in spec["versions"] if version["storage"])
    schema = stored["schema"]["openAPIV3Schema"]["properties"]
    names = spec["names"]
    versions = ", ".join(code(f"{spec['group']}/{version['name']}") for version in spec["versions"])
    parts = [
        "# Fields of a Workspace\n",
        f"Kind `{names['kind']}`, plural `{names['plural']}`, short names "
        f"{', '.join(code(name) for name in names['shortNames'])}, {spec['scope'].lower()}. Versions: {versions}; "
        f"`{stored['name']}` is stored. All versions have the same schema. There is no `spec`.\n",
        "A field in **bold** is required where its parent is given.\n",
    ]
    for name in ("resource", "inference", "tuning", "status"):
        parts += [f"## {name}\n", schema[name].get("description", "") + "\n"]
        parts.append(table(("Field", "Type", "Default", "Limits", "Meaning"), _rows(name, schema[name])))
        rules = list(_rules(name, schema[name]))
        if rules:
            parts += ["Rules, judged by the apiserver:\n", table(("Field", "Refused with"), rules)]
    parts += ["## Columns of kubectl get\n", _columns(stored["additionalPrinterColumns"])]
    return "\n".join(parts)


def _rows(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield one row for each field below `path`. The inside of a pod's own type is Kubernetes' to describe."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        inner = f"{path}.{name}"
        shown = f"**{code(inner)}**" if name in required else code(inner)
        yield shown, _type(child), _default(child), _limits(child), child.get("description", "")
        yield from _rows(inner, child)
        items = child.get("items") or child.get("additionalProperties")
        if isinstance(items, dict):
            yield from _rows(f"{inner}[]" if "items" in child else f"{inner}.*", items)


def _type(schema: dict[str, Any]) -> str:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return "object (as Kubernetes defines it)"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        return f"map to {_type(values)}"
    kind = schema.get("type", "integer or string")
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _default(schema: dict[str, Any]) -> str:
    return code(schema["default"]) if "default" in schema else ""


def _limits(schema: dict[str, Any]) -> str:
    found = [text.format(schema[key]) for key, text in _BOUNDS if key in schema]
    if "enum" in schema:
        found.append("one of " + ", ".join(code(value) for value in schema["enum"]))
    return "; ".join(found)


def _rules(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield code(path + rule.get("fieldPath", "")), rule.get("message", "")
    for name, child in schema.get("properties", {}).items():
        yield from _rules(f"{path}.{name}", child)
        if isinstance(child.get("items"), dict):
            yield from _rules(f"{path}.{name}[]", child["items"])


def _columns(columns: list[dict[str, Any]]) -> str:
    rows = [(c["name"], code(c["jsonPath"]), "" if c.get("priority", 0) == 0 else "with -o wide") for c in columns]
    return table(("Column", "From", ""), rows)
