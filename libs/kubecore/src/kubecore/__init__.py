"""kubecore: what client-go and controller-runtime do for Go, on asyncio, aiohttp and msgspec.

Read in this order: transport -> client -> reflector -> store -> informer -> workqueue -> controller -> leader -> manager.
Modules are imported one by one (`from kubecore.client import Client`): nothing is re-exported here, so that a pod that
only patches its own report does not pay for the runtime.
"""
