"""Labels, annotations, finalizers and taints, as constants. Sources: KAITO v1beta1, karpenter.sh/v1 and v1alpha5."""

from __future__ import annotations

from typing import Final

# --- labels: ownership ------------------------------------------------------------------------------------------------
WORKSPACE: Final = "kaito.sh/workspace"
"""Name of the Workspace: on pods, workloads, claims and nodes."""
WORKSPACE_NAMESPACE: Final = "kaito.sh/workspacenamespace"
"""Namespace of the Workspace: on claims and nodes, which have none of their own."""
RAGENGINE: Final = "kaito.sh/ragengine"
RAGENGINE_NAMESPACE: Final = "kaito.sh/ragenginenamespace"
CREATED_BY_INFERENCESET: Final = "inferenceset.kaito.sh/created-by"
REVISION_OWNER: Final = "workspace.kaito.io/name"
"""On ControllerRevisions: the Workspace that they belong to (the domain is kaito.io there, as users' tools know it)."""
MANAGED_BY: Final = "app.kubernetes.io/managed-by"

# --- labels: nodes ----------------------------------------------------------------------------------------------------
ACCELERATOR: Final = "accelerator"
ACCELERATOR_NVIDIA: Final = "nvidia"
MACHINE_TYPE: Final = "kaito.sh/machine-type"
CREATION_TIMESTAMP: Final = "kaito.sh/creation-timestamp"
INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
OS: Final = "kubernetes.io/os"
ARCH: Final = "kubernetes.io/arch"
TOPOLOGY_ZONE: Final = "topology.kubernetes.io/zone"
TOPOLOGY_REGION: Final = "topology.kubernetes.io/region"
AGENT_POOL: Final = "kubernetes.azure.com/agentpool"
"""AKS: name of the agent pool that a node belongs to (legacy spelling: `agentpool`)."""
AGENT_POOL_LEGACY: Final = "agentpool"
SKU_NAME: Final = "karpenter.azure.com/sku-name"
GPU_PRODUCT: Final = "nvidia.com/gpu.product"
GPU_COUNT: Final = "nvidia.com/gpu.count"
GPU_MEMORY: Final = "nvidia.com/gpu.memory"
"""Memory of one GPU in MiB (GPU feature discovery)."""
CUDA_COMPUTE_MAJOR: Final = "nvidia.com/gpu.compute.major"
CUDA_COMPUTE_MINOR: Final = "nvidia.com/gpu.compute.minor"
POD_NAME: Final = "statefulset.kubernetes.io/pod-name"

# --- labels: claims ---------------------------------------------------------------------------------------------------
NODEPOOL: Final = "karpenter.sh/nodepool"
NODEPOOL_KAITO: Final = "kaito"
"""Value of NODEPOOL on every claim that KAITO makes."""
PROVISIONER_NAME: Final = "karpenter.sh/provisioner-name"
"""Machine (v1alpha5) predecessor of NODEPOOL."""
PROVISIONER_DEFAULT: Final = "default"
REGISTERED: Final = "karpenter.sh/registered"
INITIALIZED: Final = "karpenter.sh/initialized"
CAPACITY_TYPE: Final = "karpenter.sh/capacity-type"
DO_NOT_SYNC_TAINTS: Final = "karpenter.sh/do-not-sync-taints"

RESERVED_SELECTOR_KEYS: Final = frozenset(
    {
        WORKSPACE,
        WORKSPACE_NAMESPACE,
        RAGENGINE,
        RAGENGINE_NAMESPACE,
        "karpenter.kaito.sh/workspace-name",
        "karpenter.kaito.sh/workspace-namespace",
        "karpenter.kaito.sh/inferenceset",
        "karpenter.kaito.sh/inferenceset-namespace",
    }
)
"""Keys that a Workspace's labelSelector may not carry onto nodes: they are stripped with a warning."""

# --- annotations on a Workspace ---------------------------------------------------------------------------------------
ENABLE_LB: Final = "kaito.sh/enablelb"
"""Exactly "True" makes the Service a LoadBalancer."""
RUNTIME: Final = "kaito.sh/runtime"
BYPASS_RESOURCE_CHECKS: Final = "kaito.sh/bypass-resource-checks"
"""Its presence, whatever the value, skips the memory-fit checks."""
NODE_IMAGE_FAMILY: Final = "kaito.sh/node-image-family"
NODE_CLASS_NAME: Final = "kaito.sh/node-class-name"
DISABLE_BENCHMARK: Final = "kaito.sh/disable-benchmark"
PERFORMANCE_MODE: Final = "kaito.sh/performance-mode"
USE_LOCAL_WEIGHTS: Final = "kaito.sh/use-local-weights"
MODEL_STREAMING: Final = "kaito.sh/model-streaming"
LORA: Final = "kaito.sh/lora"
"""Ours: "disabled" starts the engine without LoRA support and gives its memory to the KV cache."""
DISABLED: Final = "disabled"
STRONG_ADAPTERS: Final = "kaito.sh/allow-adapter-strength-above-one"
"""Ours: "true" admits adapter strengths above 1, up to 4."""
ADAPTER_RESTART: Final = "kaito.sh/adapter-restart"
"""Ours: "allowed" lets the pods be rolled for an adapter that cannot go live without it; otherwise it waits."""
REFRESH: Final = "kaito.sh/refresh"
"""Ours: a new value makes the servers ask at once what the tags of their adapters mean (as any changed annotation does)."""
UPGRADE_RESTART: Final = "kaito.sh/upgrade-restart"
"""Ours: "allowed" lets a change of the operator (release, catalog, settings) restart the pods; otherwise it waits."""
ALLOWED: Final = "allowed"
API_KEY_SECRET: Final = "kaito.sh/api-key-secret"  # noqa: S105 - the name of an annotation
"""Ours: a Secret of the namespace, each value of which is a key that clients may use; without it no key is asked for."""
TUNING_DRY_RUN: Final = "kaito.sh/tuning-dry-run"
"""Ours: "true" stops a tuning after data, fit and two steps, and says what the whole would take."""
SIGNING_KEY_SECRET: Final = "kaito.sh/signing-key-secret"  # noqa: S105 - the name of an annotation
"""Ours: a Secret of the namespace with the private key `cosign.key`: the trained adapter is signed with it when it is pushed."""
PUSH_HOLD: Final = "kaito.sh/push-hold"
"""Ours: how long a refused push is tried again while the node is held: seconds, or a number with s, m or h."""

# --- annotations that the controller writes ---------------------------------------------------------------------------
REVISION_HASH: Final = "workspace.kaito.io/hash"
REVISION: Final = "workspace.kaito.io/revision"
WORKSPACE_UID: Final = "kaito.sh/workspace-uid"
"""On claims: UID of the Workspace, so that a namesake created later does not inherit them."""
CLAIM_SLOT: Final = "kaito.sh/claim-slot"
"""On claims: the node index within the Workspace that this claim fills, from 0."""
CLAIM_ATTEMPT: Final = "kaito.sh/claim-attempt"
"""On claims: how many earlier claims of this slot were given up, from 0."""
APPLIED_HASH: Final = "kaito.sh/applied-hash"
"""On workloads: hash of the desired object that was last applied; equal hash and generation mean nothing to do."""
APPLIED_SPEC: Final = "kaito.sh/applied-spec"
"""On StatefulSets: the generation that our last apply was to give and the spec's hash: `3-<hash>`. An edit gives another."""
ADAPTER_PLAN: Final = "kaito.sh/adapter-plan"
"""On StatefulSets: what the adapters made of the pod template (rank, volumes), so that a change is known for one."""
ASKED_HASH: Final = "kaito.sh/asked-hash"
"""On StatefulSets: hash of what the user decides about the pod template; what else changes it is the operator's."""
TEMPLATE_HASH: Final = "kaito.sh/template-hash"
"""On StatefulSets: hash of the pod template that was last applied."""
TUNING_RUN: Final = "kaito.sh/tuning-run"
"""On tuning Jobs: which request the Job is for (digests of the spec's tuning part and of its configuration)."""
REPORT_PREFIX: Final = "kaito.sh/report."
"""On pods: `kaito.sh/report.<container>` holds that container's report (kaito_api.report)."""

# --- annotations, finalizers and taints of Karpenter ------------------------------------------------------------------
DO_NOT_DISRUPT: Final = "karpenter.sh/do-not-disrupt"
TERMINATION_TIMESTAMP: Final = "karpenter.sh/nodeclaim-termination-timestamp"
"""RFC 3339 deadline after which the drain of the claim's node is forced."""
KARPENTER_FINALIZER: Final = "karpenter.sh/termination"
"""On claims and on their nodes."""
WORKSPACE_FINALIZER: Final = "workspace.finalizer.kaito.sh"

TAINT_SKU: Final = "sku"
"""`sku=gpu:NoSchedule`: on every GPU node that KAITO asks for."""
TAINT_SKU_GPU: Final = "gpu"
TAINT_DISRUPTED: Final = "karpenter.sh/disrupted"
TAINT_UNREGISTERED: Final = "karpenter.sh/unregistered"
TAINT_UNREACHABLE: Final = "node.kubernetes.io/unreachable"
TAINT_NOT_READY: Final = "node.kubernetes.io/not-ready"
TAINT_CLOUD_UNINITIALIZED: Final = "node.cloudprovider.kubernetes.io/uninitialized"

# --- resources --------------------------------------------------------------------------------------------------------
RESOURCE_GPU: Final = "nvidia.com/gpu"


def report_annotation(container: str) -> str:
    """Return the annotation key under which `container` publishes its report on its own Pod."""
    return REPORT_PREFIX + container
