"""A plain REST client on the real apiserver, with impersonation, and the admission policies installed on demand."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from kubecore.testing.asserts import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
CONTROLLER = "system:serviceaccount:kaito-system:kaito-controller"


class RefusedError(AssertionError):
    """The apiserver said no; str() is its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """JSON over HTTPS as cluster-admin, or as somebody else through impersonation."""

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> None:
        self._session = session
        self._url = url
        self._headers = headers or {}

    def as_user(self, name: str, group: str = "system:authenticated", extra: dict[str, str] | None = None) -> "Api":
        groups = {"Impersonate-Group": group}
        # Keys of extra are percent-encoded in header names: that is how the apiserver reads the slash.
        extras = {f"Impersonate-Extra-{key.replace('/', '%2F')}": value for key, value in (extra or {}).items()}
        return Api(self._session, self._url, {"Impersonate-User": name} | groups | extras)

    def with_token(self, token: str) -> "Api":
        return Api(self._session, self._url, {"Authorization": f"Bearer {token}"})

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        data = None if body is None else json.dumps(body)
        headers = self._headers | {"Content-Type": kind}
        while True:
            async with self._session.request(method, self._url + path, data=data, headers=headers) as response:
                text = await response.text()
                if response.status == 429:  # the storage of a custom resource is being made: the server says when
                    await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
                    continue
                if response.status == 404 and not text.startswith("{"):  # the kind itself is not served (yet)
                    raise RefusedError(404, text)
                answer: dict[str, Any] = json.loads(text)
                if response.status >= 400:
                    raise RefusedError(response.status, answer.get("message", ""))
                return answer

    async def get(self, path: str) -> dict[str, Any]:
        return await self.call("GET", path)

    async def create(self, path: str, body: Any) -> dict[str, Any]:
        return await self.call("POST", path, body)

    async def replace(self, path: str, body: Any) -> dict[str, Any]:
        return await self.call("PUT", path, body)

    async def merge(self, path: str, body: Any) -> dict[str, Any]:
        return await self.call("PATCH", path, body, "application/merge-patch+json")

    async def json_patch(self, path: str, body: Any) -> dict[str, Any]:
        return await self.call("PATCH", path, body, "application/json-patch+json")

    async def apply(self, path: str, body: Any) -> dict[str, Any]:
        return await self.call(
            "PATCH", f"{path}?fieldManager=contract-test&force=true", body, "application/apply-patch+yaml"
        )

    async def delete(self, path: str) -> dict[str, Any]:
        return await self.call("DELETE", path)

    async def refusal(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> str:
        """The message of the refusal; the call must be refused."""
        try:
            answer = await self.call(method, path, body, kind)
        except RefusedError as refused:
            return str(refused)
        raise AssertionError(f"{method} {path} was accepted: {json.dumps(answer)[:2000]}")


@asynccontextmanager
async def connected(apiserver: Any, *, as_admin: bool = True) -> AsyncIterator[Api]:
    pki = apiserver.state_dir / "pki"
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    if as_admin:
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=timeout) as session:
        yield Api(session, apiserver.url)


@pytest.fixture
async def api(apiserver: Any) -> AsyncIterator[Api]:
    """The apiserver as cluster-admin."""
    async with connected(apiserver) as client:
        yield client


@pytest.fixture
async def anonymous(apiserver: Any) -> AsyncIterator[Api]:
    """The apiserver without a client certificate: for calls with a token."""
    async with connected(apiserver, as_admin=False) as client:
        yield client


def load(path: str) -> list[dict[str, Any]]:
    """Documents of a YAML file of the repository."""
    return [document for document in yaml.safe_load_all((REPOSITORY / path).read_text()) if document]


def specimen(schema: dict[str, Any]) -> Any:
    """A value with every field of the schema filled in, none of them with its default."""
    if schema.get("x-kubernetes-int-or-string"):
        return "1Gi"
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        declared = {name: specimen(child) for name, child in schema.get("properties", {}).items()}
        return {"anything": {"goes": [1, "two", None]}, **declared}
    match schema["type"]:
        case "object" if "additionalProperties" in schema:
            return {"some.key": specimen(schema["additionalProperties"])}
        case "object":
            return {name: specimen(child) for name, child in schema.get("properties", {}).items()}
        case "array":
            return [specimen(schema["items"])]
        case "integer":
            return 7
        case "boolean":
            return True
        case "string" if "enum" in schema:
            return next(value for value in schema["enum"] if value != schema.get("default"))
        case "string" if schema.get("format") == "date-time":
            return "2026-01-02T03:04:05Z"
        case "string":
            return "5h" if "s|m|h" in schema.get("pattern", "") else "word"
    raise AssertionError(f"no specimen for {schema}")


@pytest.fixture(scope="session")
def specimens() -> dict[str, dict[str, Any]]:
    """Per kind, an object with every field of crds/*.yaml filled in; rules that exclude one another are not obeyed."""
    objects = {}
    for file in sorted((REPOSITORY / "crds").glob("*.yaml")):
        (crd,) = load(str(file.relative_to(REPOSITORY)))
        version = next(version for version in crd["spec"]["versions"] if version["storage"])
        kind = crd["spec"]["names"]["kind"]
        filled = specimen(version["schema"]["openAPIV3Schema"])
        filled |= {"apiVersion": f"{crd['spec']['group']}/{version['name']}", "kind": kind, "metadata": {"name": "w"}}
        objects[kind] = filled
    return objects


@pytest.fixture(scope="session")
def documents() -> Any:
    """Reads the documents of a YAML file of the repository."""
    return load


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def policies(apiserver: Any) -> AsyncIterator[None]:
    """The admission policies of deploy/policies, in force while the tests of one module run.

    They are removed afterwards: other modules of the session store objects that the policies would refuse.
    """
    texts = [file.read_text() for file in sorted((REPOSITORY / "deploy" / "policies").glob("*.yaml"))]
    everything = "\n---\n".join(texts)
    for placeholder, value in (("KAITO_NAMESPACE", "kaito-system"), ("KAITO_SERVICE_ACCOUNT", "kaito-controller")):
        everything = everything.replace(placeholder, value)
    objects = [document for document in yaml.safe_load_all(everything) if document]
    paths = [
        f"{ADMISSION}/{o['kind'].lower().replace('policy', 'policies', 1).replace('policiesbinding', 'policybindings')}"
        for o in objects
    ]
    async with connected(apiserver) as client:
        for path, policy in zip(paths, objects, strict=True):
            await client.apply(f"{path}/{policy['metadata']['name']}", policy)
        await asyncio.gather(*(_in_force(client, *probe) for probe in PROBES))
        yield
        for path, policy in zip(paths, objects, strict=True):
            await client.delete(f"{path}/{policy['metadata']['name']}")
        await asyncio.gather(*(_out_of_force(client, *probe) for probe in PROBES))


async def _out_of_force(client: Api, *probe: Any) -> None:
    """Returns when the policy refuses that dry run no longer: it takes the apiserver up to a second to forget it."""

    async def forgotten() -> bool:
        return not await _refuses(client, *probe)

    await eventually(forgotten, timeout=60)


async def _in_force(client: Api, *probe: Any) -> None:
    """Returns when a dry run is refused by the policy: nothing announces that the apiserver has loaded it."""
    await eventually(lambda: _refuses(client, *probe), timeout=60)


async def _refuses(client: Api, user: str, path: str, body: dict[str, Any], answer: str) -> bool:
    """Whether the policy answers to a dry run."""
    try:
        await client.as_user(user, "system:masters").create(f"{path}?dryRun=All", body)
    except RefusedError as refused:
        if answer in str(refused):
            return True
        raise
    return False


ADMISSION = "/apis/admissionregistration.k8s.io/v1"
PROBES: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    (
        "probe",
        "/apis/kaito.sh/v1beta1/namespaces/default/workspaces",
        {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": "probe"}},
        "resource is missing",
    ),
    (
        "system:serviceaccount:default:kaito-probe",
        "/api/v1/namespaces/default/pods",
        {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        "may not create pods",
    ),
    (
        CONTROLLER,
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
        {"metadata": {"name": "probe"}, "rules": []},
        "begins with kaito-",
    ),
)
"""User, path, body, and what the policy says to it: one for each policy."""
