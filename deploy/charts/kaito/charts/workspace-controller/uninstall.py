"""Run by `helm uninstall` in a pod, before anything is removed: fails while Workspaces, or claims of theirs, are there.

Arguments: the release's name, namespace and revision; the kind that asks for nodes (nodeclaims or machines); the folder with the
ServiceAccount's token and the apiserver's certificate.
"""

import http.client
import json
import os
import ssl
import sys
import time
from pathlib import Path

WORKSPACES = "/apis/kaito.sh/v1beta1/workspaces?"
CLAIMS = {
    "nodeclaims": "/apis/karpenter.sh/v1/nodeclaims?labelSelector=kaito.sh%2Fworkspace&",
    "machines": "/apis/karpenter.sh/v1alpha5/machines?labelSelector=kaito.sh%2Fworkspace&",
}
SHOWN = 10
NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PATIENCE = 60


class ListRefusedError(Exception):
    """The apiserver did not list the objects: the rights of this pod may not have reached it yet."""


def names(path, folder):
    """Returns the names of the first objects, one more than are shown; nothing where the kind is not installed."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    trust = ssl.create_default_context(cafile=folder / "ca.crt")
    link = http.client.HTTPSConnection(host, port, timeout=10, context=trust)
    try:
        token = (folder / "token").read_text().strip()
        link.request(
            "GET", f"{path}limit={SHOWN + 1}", headers={"Authorization": f"Bearer {token}", "Accept": NAMES_ONLY}
        )
        answer = link.getresponse()
        body = answer.read().decode(errors="replace")
    finally:
        link.close()
    if answer.status == http.client.NOT_FOUND:
        return []
    if answer.status != http.client.OK:
        raise ListRefusedError(f"{answer.status} {body[:500]}")
    return [called(item["metadata"]) for item in json.loads(body)["items"] or ()]


def called(meta):
    """Returns the name of an object as a person reads it."""
    name = "/".join(part for part in (meta.get("namespace"), meta["name"]) if part)
    return f"{name} (being deleted)" if "deletionTimestamp" in meta else name


def listed(found):
    """Returns names in one line, the last of too many left out."""
    return ", ".join([*found[:SHOWN], *(["and more"] if len(found) > SHOWN else [])])


def judge(workspaces, claims, release, namespace, revision):
    """Returns why the release must stay, for a person to act on; "" where it may go."""
    if not workspaces and not claims:
        return ""
    words = [f"{release} is not uninstalled; nothing was removed."]
    if workspaces:
        words += [
            f"Workspaces that are still there: {listed(workspaces)}.",
            "Each has a finalizer that only the workspace-controller removes, after it has given the nodes back. Without the "
            "controller a deleted Workspace stays Terminating, its namespace too, and its nodes go on costing.",
        ]
    if claims:
        words.append(f"Claims, each a node that costs: {listed(claims)}. They go with their Workspaces.")
    words += [
        "Delete the Workspaces, which ends their models and tunings, and wait until they and their claims are gone:",
        "  kubectl delete workspaces --all --all-namespaces",
        f"  helm uninstall {release} --namespace {namespace}",
        "Or leave them as they are, for a later installation to go on with; until then nobody can delete one:",
        f"  helm uninstall {release} --namespace {namespace} --no-hooks",
        "Or keep the release. Helm calls it uninstalling now, and this makes it deployed again:",
        f"  helm rollback {release} {revision} --namespace {namespace}",
    ]
    return "\n".join(words)


def main(release, namespace, revision, claims, folder):
    """Looks, for a minute at most where the apiserver does not answer; says what is there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            found = [names(path, Path(folder)) for path in (WORKSPACES, CLAIMS[claims])]
            break
        except (OSError, http.client.HTTPException, ListRefusedError) as error:
            if time.monotonic() > deadline:
                print(f"Whether Workspaces are there could not be read, so nothing was removed: {error}")
                return 1
            time.sleep(1)
    why = judge(*found, release, namespace, revision)
    print(why or "No Workspace and no claim is left.")
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
