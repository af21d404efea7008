"""The pod template of a tuning Job: check, weights, data, tuner, packager, in the order that kubelet keeps.

The push Secret and the key that signs are mounted into the packager's containers alone. (The tuner's supervisor may read the push
Secret over the API to keep checkpoints in the registry; an operator can switch that off.) An output that is only a volume has no
packager: the tuner is the main container then, and so it is in a dry run, which makes nothing.
"""

from __future__ import annotations

from typing import Any

from kaito_api import labels
from kaito_api.workspace import Workspace
from workspace_controller.engines import engine_image
from workspace_controller.hardening import CONTAINER_SECURITY, POD_SECURITY, TMP_MOUNT, base_env
from workspace_controller.inference.command import fetch_command
from workspace_controller.inference.metadata import pod_labels
from workspace_controller.inference.placement import TOLERATIONS, affinity, node_requirements
from workspace_controller.inference.weights import MOUNT_PATH, Weights
from workspace_controller.inference.weights import VOLUME as WEIGHTS_VOLUME
from workspace_controller.inference_config import ConfigSource
from workspace_controller.naming import service_account_name
from workspace_controller.options import Options
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing
from workspace_controller.tuning import command, resources, steps
from workspace_controller.tuning.checkpoints import checkpoint_image
from workspace_controller.tuning.config import digest
from workspace_controller.tuning.volumes import volumes

CONFIG_HASH = "kaito.sh/config-hash"
_METRICS = {"name": "metrics", "containerPort": steps.METRICS_PORT, "protocol": "TCP"}
_SECRET_MOUNT = {"name": "push-secret", "mountPath": steps.SECRET_MOUNT, "readOnly": True}
_KEY_MOUNT = {"name": "signing-key", "mountPath": steps.KEY_MOUNT, "readOnly": True}


def pod_template(  # noqa: PLR0917 - spec and configuration, then what was made of them
    workspace: Workspace,
    config: ConfigSource | None,
    sizing: Sizing,
    settings: Settings,
    options: Options,
    weights: Weights,
    *,
    run: str,
) -> dict[str, Any]:
    """Return the pod template that trains on the preset of `sizing`; `run` names this very tuning for the tuner."""
    assert workspace.tuning is not None
    chain = _chain(workspace, sizing, settings, options, weights, run=run)
    annotations = {labels.DO_NOT_DISRUPT: "true"}
    if workspace.tuning.config:
        annotations[CONFIG_HASH] = digest(config)[:16]
    scratch = settings.tuning.scratch_gib
    spec: dict[str, Any] = {
        "affinity": affinity(node_requirements(workspace, sizing)),
        "automountServiceAccountToken": True,
        "containers": [chain[-1]],
        "enableServiceLinks": False,
        "initContainers": chain[:-1],
        "restartPolicy": "Never",
        "securityContext": POD_SECURITY,
        "serviceAccountName": service_account_name(workspace.metadata.name),
        "terminationGracePeriodSeconds": steps.GRACE_SECONDS,
        "tolerations": list(TOLERATIONS),
        "volumes": volumes(workspace, sizing, weights, options, scratch_gib=scratch, pushes=pushes(workspace)),
    }
    if not chain[:-1]:
        del spec["initContainers"]
    return {"metadata": {"annotations": annotations, "labels": pod_labels(workspace)}, "spec": spec}


def pushes(workspace: Workspace) -> bool:
    """Whether the result goes into a registry."""
    tuning = workspace.tuning
    return tuning is not None and tuning.output is not None and bool(tuning.output.image)


def brings_image(workspace: Workspace) -> bool:
    """Whether the data come out of a registry."""
    tuning = workspace.tuning
    return tuning is not None and tuning.input is not None and bool(tuning.input.image)


def readable_secrets(workspace: Workspace, weights: Weights, settings: Settings, options: Options) -> tuple[str, ...]:
    """Return the names of the Secrets that the pod reads over the API, sorted: to pull weights and data, to keep checkpoints."""
    tuning = workspace.tuning
    if tuning is None:
        return ()
    named = set(weights.pull_secrets)
    if tuning.input is not None and tuning.input.image:
        named.update(tuning.input.image_pull_secrets)
    if tuning.output is not None and checkpoint_image(workspace, settings, options):
        named.add(tuning.output.image_push_secret)
    return tuple(sorted(named))


def _chain(
    workspace: Workspace, sizing: Sizing, settings: Settings, options: Options, weights: Weights, *, run: str
) -> list[dict[str, Any]]:
    """Return the containers in the order in which they run; the last one is the pod's main container."""
    assert workspace.tuning is not None
    assert workspace.tuning.input is not None
    chain = [_check(workspace, settings, options)] if pushes(workspace) else []
    if weights.source:
        chain.append(_weights(workspace, sizing, settings, weights))
    if workspace.tuning.input.image:
        chain.append(_data(workspace, sizing, settings))
    chain.append(_tuner(workspace, sizing, settings, options, weights, run=run))
    if pushes(workspace) and not options.dry_run:
        chain.append(_packager(workspace, sizing, settings, options))
    return chain


def _check(workspace: Workspace, settings: Settings, options: Options) -> dict[str, Any]:
    words = command.check_command(workspace, settings, options)
    container = _container(steps.CHECK, settings.tuning.packager_image, words)
    return container | {"resources": resources.PACKAGER, "volumeMounts": [TMP_MOUNT, *_secret_mounts(options)]}


def _weights(workspace: Workspace, sizing: Sizing, settings: Settings, weights: Weights) -> dict[str, Any]:
    assert sizing.engine is not None
    container = _container(
        steps.WEIGHTS,
        engine_image(sizing.engine, settings.engine_images),
        fetch_command(workspace, weights, trusted_realms=settings.trusted_realms),
    )
    if weights.token_secret:
        reference = {"name": weights.token_secret, "key": "HF_TOKEN"}
        env = [*container["env"], {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}}]
        container["env"] = sorted(env, key=lambda entry: str(entry["name"]))
    mounts = [TMP_MOUNT, {"name": WEIGHTS_VOLUME, "mountPath": MOUNT_PATH}]
    return container | {"resources": resources.FETCHER, "volumeMounts": mounts}


def _data(workspace: Workspace, sizing: Sizing, settings: Settings) -> dict[str, Any]:
    assert sizing.engine is not None
    image = engine_image(sizing.engine, settings.engine_images)
    mounts = [{"name": "data", "mountPath": steps.DATA_MOUNT}, TMP_MOUNT]
    container = _container(steps.DATA, image, command.data_command(workspace, settings))
    return container | {"resources": resources.FETCHER, "volumeMounts": mounts}


def _tuner(
    workspace: Workspace, sizing: Sizing, settings: Settings, options: Options, weights: Weights, *, run: str
) -> dict[str, Any]:
    assert workspace.tuning is not None
    assert workspace.tuning.input is not None
    assert sizing.engine is not None
    image = settings.tuning.images.get(sizing.engine.name, sizing.engine.tuner_image)
    container = _container(steps.TUNER, image, command.tuner_command(workspace, sizing, settings, options, run=run))
    env = [
        *container["env"],
        {"name": "HF_HUB_OFFLINE", "value": "1"},
        {"name": "OMP_NUM_THREADS", "value": str(resources.threads(sizing, settings))},
        *(
            [{"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "expandable_segments:True"}]
            if sizing.engine.needs_gpu
            else []
        ),
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "dshm", "mountPath": "/dev/shm"},  # noqa: S108 - the container's own shared memory
        {"name": "results", "mountPath": steps.RESULTS_MOUNT},
        TMP_MOUNT,
        {"name": WEIGHTS_VOLUME, "mountPath": MOUNT_PATH, "readOnly": True},
        {"name": "work", "mountPath": steps.WORK_MOUNT},
    ]
    if not workspace.tuning.input.urls:
        mounts.append({"name": "data", "mountPath": steps.DATA_MOUNT, "readOnly": True})
    if workspace.tuning.config:
        mounts.append({"name": "config", "mountPath": steps.CONFIG_MOUNT, "readOnly": True})
    return container | {
        "env": sorted(env, key=lambda entry: str(entry["name"])),
        "ports": [_METRICS],
        "resources": resources.tuner_resources(sizing, weights, settings),
        "volumeMounts": sorted(mounts, key=lambda mount: str(mount["mountPath"])),
    }


def _packager(workspace: Workspace, sizing: Sizing, settings: Settings, options: Options) -> dict[str, Any]:
    words = command.push_command(workspace, sizing, settings, options)
    mounts = [{"name": "results", "mountPath": steps.RESULTS_MOUNT, "readOnly": True}, TMP_MOUNT]
    container = _container(steps.PACKAGER, settings.tuning.packager_image, words)
    mounts += _secret_mounts(options)
    return container | {"ports": [_METRICS], "resources": resources.PACKAGER, "volumeMounts": mounts}


def _secret_mounts(options: Options) -> list[dict[str, Any]]:
    """Return what only the packager's containers may see."""
    return [_KEY_MOUNT, _SECRET_MOUNT] if options.signing_key_secret else [_SECRET_MOUNT]


def _container(name: str, image: str, words: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": words,
        "env": base_env(),
        "securityContext": CONTAINER_SECURITY,
    }
