"""admissionregistration.k8s.io/v1: only enough to see that our policies are installed and bound."""

from __future__ import annotations

import msgspec

from kaito_api.meta import ObjectMeta


class ValidatingAdmissionPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Identity and labels of a policy."""

    metadata: ObjectMeta


class ValidatingAdmissionPolicyBindingSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """A policy without a binding that denies is a policy that does nothing."""

    policy_name: str = ""
    validation_actions: list[str] = []


class ValidatingAdmissionPolicyBinding(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Which policy is enforced, and how."""

    metadata: ObjectMeta
    spec: ValidatingAdmissionPolicyBindingSpec = ValidatingAdmissionPolicyBindingSpec()
