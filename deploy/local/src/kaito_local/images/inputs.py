"""Cache keys: a digest over everything that a layer is made of."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

# Raised when the builder itself would write other bytes for the same inputs.
BUILDER_VERSION = "1"


def key(kind: str, *inputs: str) -> str:
    """A file-system friendly name for a set of inputs."""
    digest = hashlib.sha256()
    for item in (BUILDER_VERSION, *inputs):
        digest.update(f"{len(item)}:".encode() + item.encode())
    return f"{kind}-{digest.hexdigest()[:32]}"


def tree_digest(roots: Iterable[Path]) -> str:
    """A digest over the names and contents of all files below some folders or of single files; caches are left out."""
    digest = hashlib.sha256()
    for root in roots:
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        for path in files:
            relative = path.relative_to(root.parent).as_posix()
            if "__pycache__" in relative or relative.endswith((".pyc", "/.gitignore")):
                continue
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{relative}\0{content}\n".encode())
    return digest.hexdigest()


def pins(requirements: str) -> str:
    """The meaning of an exported requirements file: its lines without comments, so that uv's header does not count."""
    return "\n".join(
        line.rstrip() for line in requirements.splitlines() if line.strip() and not line.lstrip().startswith("#")
    )
