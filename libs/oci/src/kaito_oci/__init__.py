"""ORAS made safe: pull and push OCI images and artifacts, verified, bounded and resumable.

oras-py is the protocol layer (`registry`, `auth` subclass its client and token backend); it is synchronous, so everything
here runs in worker threads and can be cancelled from the event loop (`operation`). Start reading at `pull` and `push`.
"""

from kaito_oci.archive import Member
from kaito_oci.blobs import Blob, BytesBlob, FileBlob, TarBlob
from kaito_oci.credentials import Anonymous, Credential, CredentialSource, DockerConfigError, DockerConfigs
from kaito_oci.errors import OciError
from kaito_oci.limits import Limits, Patience
from kaito_oci.manifest import Descriptor, Manifest, Platform
from kaito_oci.peek import Peek, Start, peek
from kaito_oci.pull import PullResult, pull
from kaito_oci.push import PushResult, check_push, push
from kaito_oci.reference import Reference
from kaito_oci.referrers import list_referrer
from kaito_oci.resolve import inspect, resolve
from kaito_oci.session import Image
from kaito_oci.settings import RegistrySettings
from kaito_oci.small_blob import read_blob

__all__ = [
    "Anonymous",
    "Blob",
    "BytesBlob",
    "Credential",
    "CredentialSource",
    "Descriptor",
    "DockerConfigError",
    "DockerConfigs",
    "FileBlob",
    "Image",
    "Limits",
    "Manifest",
    "Member",
    "OciError",
    "Patience",
    "Peek",
    "Platform",
    "PullResult",
    "PushResult",
    "Reference",
    "RegistrySettings",
    "Start",
    "TarBlob",
    "check_push",
    "inspect",
    "list_referrer",
    "peek",
    "pull",
    "push",
    "read_blob",
    "resolve",
]
