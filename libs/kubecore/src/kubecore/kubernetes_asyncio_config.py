"""kubernetes-asyncio's configuration readers, without the 700 generated model modules that come with the package.

`import kubernetes_asyncio.config` runs the package's `__init__`, which imports the whole generated client: 65 MiB of memory and
a second of start-up on top of aiohttp, in a process whose budget is 180 MiB. The readers need of it only `Configuration`.
So the few modules are loaded here under bare parent packages; afterwards `sys.modules` is as before, and an ordinary
`import kubernetes_asyncio` elsewhere still works. Which modules these are depends on the pinned version: a test loads them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any, NamedTuple

from kubecore.errors import ConfigError

_PACKAGE = "kubernetes_asyncio"
_BARE = (_PACKAGE, f"{_PACKAGE}.client", f"{_PACKAGE}.config")


class Readers(NamedTuple):
    """The classes and functions of kubernetes-asyncio that kubecore uses; the library ships no types."""

    configuration: Any
    """client.Configuration: the plain settings object that the readers fill."""
    kubeconfig_merger: Any
    """config.kube_config.KubeConfigMerger: reads and merges the files of a KUBECONFIG path."""
    kubeconfig_loader: Any
    """config.kube_config.KubeConfigLoader: context -> host, certificates, token (exec plug-ins, OIDC, GCP, basic)."""
    in_cluster_loader: Any
    """config.incluster_config.InClusterConfigLoader."""
    config_exception: type[Exception]
    """config.ConfigException."""
    remove_temporary_files: Any
    """Deletes the files into which the kubeconfig reader unpacked inline certificates and keys."""


@functools.cache
def readers() -> Readers:
    """Load the readers once. Raises ConfigError where the installed kubernetes-asyncio has another layout."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == _PACKAGE}
    for name in before:
        del sys.modules[name]
    try:
        return _load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"kubernetes-asyncio cannot be used, its layout is not that of the pinned version: {error}"
        ) from error
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == _PACKAGE]:
            del sys.modules[name]
        sys.modules.update(before)


def _load() -> Readers:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"{_PACKAGE} is not installed")
    root = found.submodule_search_locations[0]
    for name in _BARE:
        bare = ModuleType(name)
        bare.__path__ = [root + name.removeprefix(_PACKAGE).replace(".", "/")]
        sys.modules[name] = bare
    configuration = importlib.import_module(f"{_PACKAGE}.client.configuration").Configuration
    client: Any = sys.modules[f"{_PACKAGE}.client"]
    client.Configuration = configuration
    client.ApiClient = object  # named in annotations of functions that are not used here
    kube_config = importlib.import_module(f"{_PACKAGE}.config.kube_config")
    in_cluster = importlib.import_module(f"{_PACKAGE}.config.incluster_config")
    return Readers(
        configuration=configuration,
        kubeconfig_merger=kube_config.KubeConfigMerger,
        kubeconfig_loader=kube_config.KubeConfigLoader,
        in_cluster_loader=in_cluster.InClusterConfigLoader,
        config_exception=kube_config.ConfigException,
        remove_temporary_files=kube_config._cleanup_temp_files,
    )
