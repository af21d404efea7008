"""core/v1 Service and networking.k8s.io/v1 NetworkPolicy."""

from __future__ import annotations

import msgspec

from kaito_api.meta import ObjectMeta


class ServicePort(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One port; `target_port` is a number or the name of a container port."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str = 0
    node_port: int = 0


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`cluster_ip` is "None" for a headless Service."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    ports: list[ServicePort] = []
    selector: dict[str, str] = {}
    publish_not_ready_addresses: bool = False


class LoadBalancerIngress(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An address that the cloud gave."""

    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Empty until the cloud has made the load balancer."""

    ingress: list[LoadBalancerIngress] = []


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Status of a Service."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Service."""

    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class NetworkPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """networking.k8s.io/v1 NetworkPolicy: identity only; its content is compared by the applied hash."""

    metadata: ObjectMeta
