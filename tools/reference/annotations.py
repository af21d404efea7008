"""Annotations, labels, finalizers and taints, from the constants that the code uses."""

from __future__ import annotations

import msgspec

from gpu_provisioner.claims.view import AGENT_POOL_ANNOTATION, LAUNCH_OPTION_ANNOTATION
from gpu_provisioner.nodes.health import GPU_SEEN_ANNOTATION
from kaito_api import labels
from reference.table import code, table
from workspace_controller import options
from workspace_controller.inference.pod import CONFIG_HASH


class Key(msgspec.Struct, frozen=True):
    """One key and what it means."""

    key: str
    meaning: str
    where: str = ""


USER = (
    Key(
        labels.BYPASS_RESOURCE_CHECKS,
        "Its presence skips the check that the model fits, and allows an unknown machine type.",
    ),
    Key(labels.DISABLE_BENCHMARK, "Checked and otherwise without effect: no benchmark is run."),
    Key(labels.ENABLE_LB, "Exactly `True` makes the Service a LoadBalancer; every other value a ClusterIP."),
    Key(
        labels.LORA,
        "`disabled` starts the engine without adapters and gives their memory to the KV cache. Restarts the pods.",
    ),
    Key(labels.NODE_IMAGE_FAMILY, "Image family of new nodes. Read when a claim is made."),
    Key(labels.PERFORMANCE_MODE, "vLLM's `--performance-mode`. Restarts the pods."),
    Key(labels.RUNTIME, "Only `vllm` is accepted; `transformers` is refused with a message."),
    Key(
        labels.USE_LOCAL_WEIGHTS,
        "Weights from the node's disk, below `/opt/kaito/models`, where host paths are allowed.",
    ),
    Key(options.WEIGHTS_CLAIM, "A PersistentVolumeClaim with the weights at its root; nothing is pulled then."),
    Key(
        options.WEIGHTS_FROM,
        "Weights from the preset's image (`oci`) or from Hugging Face at the pinned revision (`hf`).",
    ),
    Key(labels.STRONG_ADAPTERS, "`true` admits adapter strengths above 1, up to 4. Without it they are refused."),
    Key(
        labels.ADAPTER_RESTART,
        "`allowed` rolls the pods for an adapter that cannot go live (a volume, a rank above the engine's); "
        "otherwise the pods stay and the condition AdaptersReady says `RestartRequired`.",
    ),
    Key(
        labels.UPGRADE_RESTART,
        "`allowed` restarts the pods when an upgrade of the operator, its catalog or a setting changes them; otherwise that "
        "waits until a pod is next made.",
    ),
    Key(
        labels.API_KEY_SECRET,
        "A Secret of the namespace: clients need one of its values as their API key. Restarts the pods; an edit of the Secret "
        "does not.",
    ),
    Key(
        labels.SIGNING_KEY_SECRET,
        "Tuning: a Secret with `cosign.key`; the adapter is signed with it before it is pushed. Read when the Job is made.",
    ),
    Key(labels.REFRESH, "A new value makes the servers ask at once what the tags of their adapters mean."),
    Key(labels.NODE_CLASS_NAME, "KAITO's; not read."),
    Key(labels.MODEL_STREAMING, "KAITO's; not read."),
)
"""On a Workspace, by the user."""
OURS = (
    Key(labels.REVISION, "Number of the current spec in the history.", "Workspace, StatefulSet, ControllerRevision"),
    Key(labels.REVISION_HASH, "SHA-256 of the whole spec.", "Workspace, ControllerRevision"),
    Key(labels.WORKSPACE_UID, "UID of the Workspace, so that a later namesake does not inherit the claim.", "claim"),
    Key(labels.CLAIM_SLOT, "Which node of the Workspace the claim stands for, from 0.", "claim"),
    Key(labels.CLAIM_ATTEMPT, "How many earlier claims of this slot were given up.", "claim"),
    Key(
        labels.APPLIED_HASH,
        "Hash of what was last written; equal means that nothing is to be done.",
        "every object made",
    ),
    Key(
        labels.APPLIED_SPEC,
        "Generation that the last apply was to give, and the spec's hash: another generation is somebody's edit.",
        "StatefulSet",
    ),
    Key(labels.REPORT_PREFIX + "<container>", "The container's report, JSON of at most 16 KiB.", "pod"),
    Key(labels.ASKED_HASH, "Hash of what the user decides about the pod template.", "StatefulSet"),
    Key(labels.TEMPLATE_HASH, "Hash of the pod template.", "StatefulSet"),
    Key(labels.ADAPTER_PLAN, "What the adapters made of the pod template: rank and volumes.", "StatefulSet"),
    Key(CONFIG_HASH, "Digest of `inference_config.yaml`: an edit rolls the pods.", "pod"),
    Key(AGENT_POOL_ANNOTATION, "The agent pool of the claim.", "claim"),
    Key(LAUNCH_OPTION_ANNOTATION, "Machine type, zone and capacity type that were chosen.", "claim"),
    Key(GPU_SEEN_ANNOTATION, "It has offered a GPU; only such a node can lose it and be replaced for that.", "node"),
    Key(labels.DO_NOT_DISRUPT, "Karpenter leaves it alone.", "claim, pod"),
    Key(labels.TERMINATION_TIMESTAMP, "When the drain of the claim's node is forced.", "claim"),
)
"""Annotations that the services write."""
LABELS = (
    Key(labels.WORKSPACE, "Name of the Workspace.", "every object made, claim, node"),
    Key(labels.WORKSPACE_NAMESPACE, "Its namespace.", "claim, node"),
    Key(labels.MANAGED_BY, "`kaito`.", "every namespaced object made"),
    Key(labels.REVISION_OWNER, "Name of the Workspace.", "ControllerRevision"),
    Key(labels.CREATED_BY_INFERENCESET, "Passed on from the Workspace.", "pod"),
    Key(labels.ACCELERATOR, "`nvidia`.", "claim, node"),
    Key(labels.NODEPOOL, "`kaito`.", "NodeClaim, node"),
    Key(labels.PROVISIONER_NAME, "`default`.", "Machine, node"),
    Key(labels.REGISTERED, "The node belongs to its claim.", "node"),
    Key(labels.INITIALIZED, "The node offered what the claim asks for.", "node"),
    Key(labels.CAPACITY_TYPE, "`on-demand` or `spot`.", "claim, node"),
)
FINALIZERS = (
    Key(labels.WORKSPACE_FINALIZER, "Held until pods and claims are gone.", "Workspace"),
    Key(labels.KARPENTER_FINALIZER, "Held until the machine is proven gone.", "claim, node"),
)
TAINTS = (
    Key(
        f"{labels.TAINT_SKU}={labels.TAINT_SKU_GPU}:NoSchedule", "Only pods that tolerate it run on GPU nodes.", "node"
    ),
    Key(f"{labels.TAINT_DISRUPTED}:NoSchedule", "The node is being drained.", "node"),
)


def page() -> str:
    """Return the page."""
    reserved = ", ".join(code(key) for key in sorted(labels.RESERVED_SELECTOR_KEYS))
    return "\n".join(
        [
            "# Annotations, labels, finalizers, taints\n",
            "## Annotations that you set on a Workspace\n",
            "A value that is not listed is refused with `SpecInvalid`.\n",
            table(("Annotation", "Values", "Effect"), [(code(k.key), _values(k.key), k.meaning) for k in USER]),
            "## Annotations that the services write\n",
            "Do not edit them.\n",
            _three(OURS),
            "## Labels\n",
            _three(LABELS),
            f"These keys are ignored in `resource.labelSelector`: {reserved}.\n",
            "## Finalizers\n",
            _three(FINALIZERS),
            "## Taints\n",
            _three(TAINTS),
        ]
    )


def _values(key: str) -> str:
    if key == labels.BYPASS_RESOURCE_CHECKS:
        return "any"
    return ", ".join(code(value) for value in options.CHOICES.get(key, ()))


def _three(keys: tuple[Key, ...]) -> str:
    return table(("Key", "On", "Meaning"), [(code(key.key), key.where, key.meaning) for key in keys])
