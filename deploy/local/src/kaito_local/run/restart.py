"""An upgrade of the operator restarts no model by itself; the main job is to show this build, so it asks for the restart."""

from kaito_api import labels
from kaito_api.meta import Key
from kaito_local.kubectl import Kubectl
from kaito_local.progress import say


async def allow_restart(kubectl: Kubectl, key: Key, image: str) -> None:
    """Let the Workspace's pods be made anew when they were made for another image than this of the server."""
    mine = ("-n", key.namespace, "-l", f"{labels.WORKSPACE}={key.name}")
    found = (await kubectl.json("get", "pods", *mine))["items"]
    images = {container["image"] for pod in found for container in pod["spec"]["containers"]}
    if images and image not in images:
        allowed = f"{labels.UPGRADE_RESTART}=allowed"
        say(f"  its pods run another build of the server: kubectl annotate workspace {key.name} {allowed}")
        await kubectl("annotate", "workspace", key.name, "-n", key.namespace, allowed, "--overwrite")
