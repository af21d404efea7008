"""Requirements become alternatives in order, and alternatives become agent pools; what cannot be honoured is refused."""

import msgspec
import pytest
from provisioner_builders import node_claim

from gpu_provisioner.claims.options import InvalidClaim, LaunchOption, architecture, launch_options, parse_option
from gpu_provisioner.claims.view import ClaimView
from gpu_provisioner.pools.shape import PoolShape, owned_pool, pool_body, pool_name, pool_shape
from kaito_api.nodeclaim import Requirement

TYPE = "node.kubernetes.io/instance-type"
ZONE = "topology.kubernetes.io/zone"
CAPACITY = "karpenter.sh/capacity-type"
OS = "kubernetes.io/os"
ARCH = "kubernetes.io/arch"
RACK = "example.com/rack"
A_IN_TWO_ZONES = ["A/2/on-demand", "A/3/on-demand"]


def asking(*requirements: tuple[str, str, list[str]]) -> ClaimView:
    return node_claim(requirements=[Requirement(key=k, operator=o, values=v) for k, o, v in requirements])


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (asking((TYPE, "In", ["A", "B"])), ["A/-/on-demand", "B/-/on-demand"]),
        (asking((TYPE, "In", ["A"]), (ZONE, "In", ["eastus-2", "eastus-1"])), ["A/2/on-demand", "A/1/on-demand"]),
        (
            asking((TYPE, "In", ["A", "B"]), (CAPACITY, "In", ["on-demand", "spot"])),
            ["A/-/spot", "B/-/spot", "A/-/on-demand", "B/-/on-demand"],
        ),
        (asking((TYPE, "In", ["A", "B"]), (TYPE, "NotIn", ["A"])), ["B/-/on-demand"]),
        (asking(("karpenter.azure.com/sku-name", "In", ["A"]), (TYPE, "In", ["A", "B"])), ["A/-/on-demand"]),
        (asking((TYPE, "In", ["A"]), ("kubernetes.io/os", "In", ["linux"])), ["A/-/on-demand"]),
        (asking((TYPE, "In", ["A"]), (OS, "NotIn", ["windows"]), (ARCH, "NotIn", ["arm64"])), ["A/-/on-demand"]),
        (asking((TYPE, "In", ["A"]), (CAPACITY, "NotIn", ["spot"]), (ZONE, "Exists", [])), ["A/-/on-demand"]),
        (
            asking((TYPE, "In", ["A"]), (CAPACITY, "In", ["spot", "on-demand"]), (CAPACITY, "NotIn", ["on-demand"])),
            ["A/-/spot"],
        ),
        (asking((TYPE, "In", ["A"]), (ZONE, "In", ["eastus-1", "2", "3"]), (ZONE, "NotIn", ["1"])), A_IN_TWO_ZONES),
        (asking((TYPE, "In", ["A"]), (ZONE, "In", ["1", "2", "3"]), (ZONE, "In", ["3", "2"])), A_IN_TWO_ZONES),
        (
            asking((TYPE, "In", ["Standard_NC6s_v3", "Standard_D4ps_v5"]), (ARCH, "NotIn", ["amd64"])),
            ["Standard_D4ps_v5/-/on-demand"],
        ),
        (asking((TYPE, "In", ["A"]), (RACK, "In", ["1", "2"]), (RACK, "NotIn", ["1"])), ["A/-/on-demand"]),
        (asking((TYPE, "In", ["A"]), (RACK, "NotIn", ["1"]), ("x/y", "DoesNotExist", [])), ["A/-/on-demand"]),
    ],
)
def test_alternatives_keep_their_order(claim: ClaimView, expected: list[str]) -> None:
    options = launch_options(claim)
    assert not isinstance(options, InvalidClaim), options
    assert [str(option) for option in options] == expected
    assert tuple(parse_option(str(option)) for option in options) == options


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (asking(), "names no instance type"),
        (asking((TYPE, "In", ["A"]), ("kubernetes.io/os", "In", ["windows"])), "windows"),
        (asking((TYPE, "In", ["Standard_NC6s_v3"]), ("kubernetes.io/arch", "In", ["arm64"])), "architecture arm64"),
        (asking((TYPE, "In", ["A"]), (CAPACITY, "In", ["reserved"])), "reserved"),
        (asking((TYPE, "In", ["A"]), ("example.com/rack", "Gt", ["3"])), "example.com/rack Gt"),
        (asking((TYPE, "In", ["A"]), ("example.com/rack", "In", ["1", "2"])), "example.com/rack In"),
        (asking((TYPE, "In", ["A"]), (TYPE, "NotIn", ["A"])), f"{TYPE} In A and {TYPE} NotIn A leaves no value"),
        (asking((TYPE, "In", ["A"]), (CAPACITY, "NotIn", ["on-demand"])), "(on-demand where none is named)"),
        (asking((TYPE, "In", ["A"]), (CAPACITY, "In", ["spot"]), (CAPACITY, "NotIn", ["spot"])), "leaves no value"),
        (asking((TYPE, "In", ["A"]), (OS, "NotIn", ["linux"])), "kubernetes.io/os NotIn linux leaves no value"),
        (asking((TYPE, "In", ["A"]), (ARCH, "NotIn", ["amd64"])), "architecture arm64"),
        (asking((TYPE, "In", ["A"]), (ARCH, "NotIn", ["amd64", "arm64"])), "leaves no value"),
        (asking((TYPE, "In", ["A"]), (ZONE, "In", ["1"]), (ZONE, "In", ["2"])), "leaves no value"),
        (asking((TYPE, "In", ["A"]), (ZONE, "In", ["eastus-1"]), (ZONE, "NotIn", ["1"])), "leaves no value"),
        (asking((TYPE, "In", ["A"]), (ZONE, "NotIn", ["1"])), "may stand in any"),
        (asking((TYPE, "In", ["A"]), (RACK, "In", ["1"]), (RACK, "In", ["2"])), "leaves no value"),
        (asking((TYPE, "In", ["A"]), (RACK, "In", ["1"]), (RACK, "DoesNotExist", [])), "leaves no value"),
        (asking((TYPE, "In", ["A"]), ("kaito.sh/workspace", "In", ["other"])), "label kaito.sh/workspace=phi"),
        (asking((TYPE, "In", ["A"]), ("kaito.sh/workspace", "NotIn", ["phi"])), "label kaito.sh/workspace=phi"),
    ],
)
def test_what_a_pool_cannot_honour_is_refused_with_the_reason(claim: ClaimView, words: str) -> None:
    refused = launch_options(claim)
    assert isinstance(refused, InvalidClaim)
    assert words in refused.message


@pytest.mark.parametrize(
    ("size", "arch"), [("Standard_D4ps_v5", "arm64"), ("Standard_NC6s_v3", "amd64"), ("x", "amd64")]
)
def test_the_architecture_is_read_from_the_size(size: str, arch: str) -> None:
    assert architecture(size) == arch


def shape_of(claim: ClaimView, option: str = "Standard_NC6s_v3/-/on-demand") -> PoolShape:
    parsed = parse_option(option)
    assert parsed is not None
    shape = pool_shape(claim, parsed)
    assert isinstance(shape, PoolShape), shape
    return shape


def test_the_body_says_everything_that_the_claim_asks_for() -> None:
    body = pool_body(shape_of(node_claim(), "Standard_NC6s_v3/2/spot"), 3)["properties"]
    assert body == {
        "type": "VirtualMachineScaleSets",
        "mode": "User",
        "count": 3,
        "vmSize": "Standard_NC6s_v3",
        "osType": "Linux",
        "osSKU": "Ubuntu",
        "osDiskSizeGB": 94,  # 100G is 93.13 GiB, rounded up
        "enableAutoScaling": False,
        "availabilityZones": ["2"],
        "scaleSetPriority": "Spot",
        "scaleSetEvictionPolicy": "Delete",
        "spotMaxPrice": -1,
        "nodeTaints": ["sku=gpu:NoSchedule"],
        "nodeLabels": {
            "kaito.sh/machine-type": "gpu",
            "kaito.sh/workspace": "phi",
            "kaito.sh/workspacenamespace": "default",
            "karpenter.sh/capacity-type": "spot",
            "karpenter.sh/nodepool": "kaito",
        },
        "tags": {"kaito-managed-by": "gpu-provisioner"},
    }


def test_the_shape_stays_the_same_when_the_claim_gets_its_nodes_labels() -> None:
    claim = node_claim()
    later = msgspec.structs.replace(
        claim,
        labels={
            **claim.labels,
            "topology.kubernetes.io/zone": "eastus-1",
            CAPACITY: "on-demand",
            TYPE: "Standard_NC6s_v3",
        },
    )
    assert shape_of(claim) == shape_of(later)


def test_the_node_gets_a_label_where_the_requirements_leave_one_value() -> None:
    claim = asking((TYPE, "In", ["A"]), (RACK, "In", ["1", "2"]), (RACK, "NotIn", ["1"]))
    assert dict(shape_of(claim).labels)[RACK] == "2"


def test_an_on_demand_pool_is_never_labelled_spot() -> None:
    claim = node_claim(labels={"kaito.sh/workspace": "phi", CAPACITY: "spot"})
    body = pool_body(shape_of(claim), 1)["properties"]
    assert body["nodeLabels"][CAPACITY] == "on-demand"
    assert "scaleSetPriority" not in body


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"requests": {"storage": "3Ti"}}, "at most 2048 GiB"),
        ({"requests": {"storage": "many"}}, "not a quantity"),
        ({"annotations": {"kaito.sh/node-image-family": "windows"}}, "windows"),
    ],
)
def test_shapes_that_azure_does_not_have_are_refused(changes: dict[str, object], words: str) -> None:
    refused = pool_shape(node_claim(**changes), LaunchOption("A", "", "on-demand"))
    assert isinstance(refused, InvalidClaim)
    assert words in refused.message


def test_equal_claims_of_one_workspace_share_a_pool_and_others_do_not() -> None:
    def name(claim: ClaimView, option: str = "A/-/on-demand", *, shared: bool = True) -> str:
        return str(pool_name(claim, shape_of(claim, option), shared=shared))

    one, two = node_claim("ws1"), node_claim("ws2")
    assert name(one) == name(two)
    assert name(one) != name(one, "B/-/on-demand")
    other = msgspec.structs.replace(two, annotations={"kaito.sh/workspace-uid": "another"})
    assert name(one) != name(other)
    assert name(one, shared=False) == "ws1"
    assert name(node_claim("ws3", annotations={})) == "ws3"
    assert len(name(one)) == 11
    assert name(one)[0].isalpha()


@pytest.mark.parametrize("bad", ["UPPER", "with-dash", "1digit", "a23456789012x"])
def test_a_name_that_no_pool_may_have_is_refused(bad: str) -> None:
    claim = node_claim(bad)
    assert isinstance(pool_name(claim, shape_of(claim), shared=False), InvalidClaim)


@pytest.mark.parametrize(
    ("tags", "labels", "ours"),
    [
        ({"kaito-managed-by": "gpu-provisioner"}, {}, True),
        ({}, {"kaito.sh/workspace": "phi", "karpenter.sh/nodepool": "kaito"}, True),
        ({}, {"kaito.sh/workspace": "phi"}, False),
        ({"kaito-managed-by": "me"}, {"karpenter.sh/nodepool": "kaito"}, False),
        ({}, {}, False),
    ],
)
def test_ownership_of_a_pool(tags: dict[str, str], labels: dict[str, str], ours: bool) -> None:
    assert owned_pool(tags, labels) is ours
