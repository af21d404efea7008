"""storage.k8s.io/v1 VolumeAttachment: what a drained node still holds."""

from __future__ import annotations

import msgspec

from kaito_api.meta import ObjectMeta


class VolumeAttachmentSource(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The attached volume."""

    persistent_volume_name: str = ""


class VolumeAttachmentSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Which volume is to be attached to which node."""

    node_name: str = ""
    attacher: str = ""
    source: VolumeAttachmentSource = VolumeAttachmentSource()


class VolumeAttachment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """storage.k8s.io/v1 VolumeAttachment."""

    metadata: ObjectMeta
    spec: VolumeAttachmentSpec = VolumeAttachmentSpec()
