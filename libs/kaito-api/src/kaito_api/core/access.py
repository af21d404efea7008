"""ServiceAccount, Role, RoleBinding and Secret."""

from __future__ import annotations

from typing import Final

import msgspec

from kaito_api.meta import ObjectMeta

DOCKER_CONFIG_TYPE: Final = "kubernetes.io/dockerconfigjson"
"""Type of the Secrets that hold logins to registries."""
DOCKER_CONFIG_KEY: Final = ".dockerconfigjson"
"""Their key, and the name of the file where one is mounted."""


class ServiceAccount(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 ServiceAccount: an identity, and whether its token is mounted where a pod does not say."""

    metadata: ObjectMeta
    automount_service_account_token: bool | None = None


class PolicyRule(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """rbac.authorization.k8s.io/v1 PolicyRule."""

    verbs: list[str] = []
    api_groups: list[str] = []
    resources: list[str] = []
    resource_names: list[str] = []


class Role(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """rbac.authorization.k8s.io/v1 Role. The apiserver writes `rules: null` for an empty one."""

    metadata: ObjectMeta
    rules: list[PolicyRule] | None = None


class RoleRef(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The role that is granted; immutable once bound."""

    kind: str
    name: str
    api_group: str = ""


class Subject(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who gets the role."""

    kind: str
    name: str
    namespace: str = ""
    api_group: str = ""


class RoleBinding(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """rbac.authorization.k8s.io/v1 RoleBinding."""

    metadata: ObjectMeta
    role_ref: RoleRef
    subjects: list[Subject] = []


class Secret(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Secret; values are decoded from base64. Its repr shows the keys only, so that a log cannot leak it."""

    metadata: ObjectMeta
    type: str = "Opaque"
    data: dict[str, bytes] = {}

    @property
    def docker_config(self) -> bytes | None:
        """The logins to registries that it holds; None where it is of another type."""
        return self.data.get(DOCKER_CONFIG_KEY) if self.type == DOCKER_CONFIG_TYPE else None

    def __repr__(self) -> str:
        return f"Secret({self.metadata.key}, type={self.type!r}, keys={sorted(self.data)})"
