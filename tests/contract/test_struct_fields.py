"""The structs of kaito_api against crds/*.yaml: every field path, type, enum and default, in both directions."""

import types
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest

from kaito_api.conditions import Status, WorkspaceCondition
from kaito_api.machine import Machine
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import MACHINES, NODECLAIMS, WORKSPACES
from kaito_api.workspace import AccessMode, PartitionMode, TuningMethod, Workspace
from kaito_api.workspace_status import AdapterState, WorkspaceState

FILES = {
    Workspace: "crds/kaito.sh_workspaces.yaml",
    NodeClaim: "crds/karpenter.sh_nodeclaims.yaml",
    Machine: "crds/karpenter.sh_machines.yaml",
}
NOT_IN_STRUCTS = {
    Workspace: set(),
    NodeClaim: set(),
    # Accepted for upstream's sake, read by no service of ours.
    Machine: {"spec.kubelet", "status.conditions[].severity"},
}
ENUMS: dict[type, dict[str, type[StrEnum]]] = {
    Workspace: {
        "resource.partition.mode": PartitionMode,
        "inference.preset.accessMode": AccessMode,
        "tuning.preset.accessMode": AccessMode,
        "tuning.method": TuningMethod,
        "status.state": WorkspaceState,
        "status.conditions[].status": Status,
        "status.adapters[].state": AdapterState,
    },
    NodeClaim: {"status.conditions[].status": Status},
    Machine: {},
}
ENUMS_OF_KUBERNETES = {"operator", "effect"}
EMPTY: tuple[Any, ...] = ("", 0, None, False)


def schema_of(documents: Any, kind: type) -> dict[str, Any]:
    (crd,) = documents(FILES[kind])
    storage = next(version for version in crd["spec"]["versions"] if version["storage"])
    schema: dict[str, Any] = storage["schema"]["openAPIV3Schema"]
    return schema


def differences(kind: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """What a struct says otherwise than the schema, as sentences."""
    kind = without_none(kind)
    origin = get_origin(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from struct_differences(kind, schema, path)
    elif origin is list:
        yield from ([] if schema["type"] == "array" else [f"{path}: a list here, {schema['type']} in the CRD"])
        yield from differences(get_args(kind)[0], schema["items"], f"{path}[]")
    elif origin is dict:
        values = get_args(kind)[1]
        if values is Any:
            if not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}: free JSON here, not in the CRD"
        elif "additionalProperties" not in schema:
            yield f"{path}: a map here, not in the CRD"
        else:
            yield from differences(values, schema["additionalProperties"], f"{path}.*")
    elif origin in (Union, types.UnionType):
        if set(get_args(kind)) != {str, int} or not schema.get("x-kubernetes-int-or-string"):
            yield f"{path}: {kind} here, {schema} in the CRD"
    else:
        expected = {
            str: ("string", None),
            int: ("integer", None),
            bool: ("boolean", None),
            datetime: ("string", "date-time"),
        }
        found = (schema.get("type"), schema.get("format") if schema.get("format") == "date-time" else None)
        if expected.get(kind) != found:
            yield f"{path}: {kind} here, {found} in the CRD"


def struct_differences(kind: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    type_fields = set() if path else {"apiVersion", "kind"}
    properties = {name: child for name, child in schema.get("properties", {}).items() if name not in type_fields}
    for name in fields.keys() - properties.keys():
        yield f"{path}.{name}: not in the CRD".removeprefix(".")
    for name in properties.keys() - fields.keys():
        yield f"{path}.{name}: not in the struct".removeprefix(".")
    for name in fields.keys() & properties.keys():
        if name == "metadata":
            continue
        field, child, here = fields[name], properties[name], f"{path}.{name}".removeprefix(".")
        yield from differences(field.type, child, here)
        if field.required and name not in schema.get("required", []):
            yield f"{here}: required here, optional in the CRD: a legal object would not decode"
        ours = field.default if field.default is not msgspec.NODEFAULT else None
        ours = None if ours in EMPTY or isinstance(ours, msgspec.Struct) else ours
        if ours != child.get("default"):
            yield f"{here}: default {ours!r} here, {child.get('default')!r} in the CRD"


def without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        rest = [part for part in get_args(kind) if part is not type(None)]
        return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007
    return kind


@pytest.mark.parametrize("kind", FILES)
def test_structs_and_schema_are_the_same(documents: Any, kind: type) -> None:
    found = set(differences(kind, schema_of(documents, kind), ""))
    assert found == {f"{path}: not in the struct" for path in NOT_IN_STRUCTS[kind]}


@pytest.mark.parametrize("kind", FILES)
def test_enums_are_the_same(documents: Any, kind: type) -> None:
    in_schema = {
        path: set(enum)
        for path, enum in enums(schema_of(documents, kind), "")
        if path.rsplit(".", 1)[-1] not in ENUMS_OF_KUBERNETES
    }
    assert in_schema == {path: {member.value for member in enum} for path, enum in ENUMS[kind].items()}


def enums(schema: dict[str, Any], path: str) -> Iterator[tuple[str, list[str]]]:
    if "enum" in schema:
        yield path, schema["enum"]
    for name, child in schema.get("properties", {}).items():
        yield from enums(child, f"{path}.{name}".removeprefix("."))
    if "items" in schema:
        yield from enums(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from enums(schema["additionalProperties"], f"{path}.*")


@pytest.mark.parametrize("kind", FILES)
def test_no_field_is_lost_on_the_way_through_a_struct(specimens: Any, kind: type) -> None:
    sent = specimens[kind.__name__]
    decoded = msgspec.json.decode(msgspec.json.encode(sent), type=kind)
    back = msgspec.json.decode(msgspec.json.encode(decoded))
    expected = {key: value for key, value in sent.items() if key not in {"apiVersion", "kind"}}
    if kind is Machine:
        del expected["spec"]["kubelet"], expected["status"]["conditions"][0]["severity"]
    assert back == expected


@pytest.mark.parametrize("resource", [WORKSPACES, NODECLAIMS, MACHINES], ids=lambda resource: resource.kind)
def test_descriptors_are_those_of_the_crds(documents: Any, resource: Any) -> None:
    (crd,) = documents(FILES[resource.type])
    spec = crd["spec"]
    assert (spec["group"], spec["names"]["plural"], spec["names"]["kind"], spec["scope"] == "Namespaced") == (
        resource.group,
        resource.plural,
        resource.kind,
        resource.namespaced,
    )
    assert resource.version in {version["name"] for version in spec["versions"] if version["storage"]}


def test_every_condition_type_is_explained_to_users(documents: Any) -> None:
    status = schema_of(documents, Workspace)["properties"]["status"]["properties"]
    text = status["conditions"]["description"]
    assert [condition.value for condition in WorkspaceCondition if condition.value not in text] == []


def test_both_versions_of_the_workspace_are_one_schema(documents: Any) -> None:
    (crd,) = documents(FILES[Workspace])
    first, second = crd["spec"]["versions"]
    assert {first["name"], second["name"]} == {"v1alpha1", "v1beta1"}
    assert first["schema"] == second["schema"]
    assert first["additionalPrinterColumns"] == second["additionalPrinterColumns"]


def test_no_rule_stands_at_the_root_of_a_crd(documents: Any) -> None:
    for kind in FILES:
        assert "x-kubernetes-validations" not in schema_of(documents, kind)
