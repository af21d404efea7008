"""An AKS stand-in that speaks ARM's wire protocol over TLS, for tests and for the local cluster.

It answers the agent-pool routes of Microsoft.ContainerService and an OAuth token endpoint, so that the real Azure SDK
and the real credential code run against it. Behind it stands a `NodeBackend`: real kubelets in the local cluster, plain
Node objects in tests.
A fault script bends single requests and operations the way the real service was seen to misbehave.
"""
