"""Run by `helm test` in a pod. Arguments: the Service whose addresses are the replicas', and how many there should be."""

import socket
import sys
import time
import urllib.error
import urllib.request

METRICS, HEALTH = 8080, 8081


def get(address, port, path):
    """Returns the body of an answer."""
    with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def look(service, replicas):
    """Returns what is wrong."""
    addresses = sorted({found[4][0] for found in socket.getaddrinfo(service, METRICS, type=socket.SOCK_STREAM)})
    if len(addresses) != replicas:
        return f"{len(addresses)} replicas of {replicas} have an address"
    leaders = 0
    for address in addresses:
        ready = get(address, HEALTH, "/readyz").strip()
        if ready != "ok":
            return f"{address} is not ready: {ready}"
        lines = get(address, METRICS, "/metrics").splitlines()
        leaders += sum(line.startswith("kubecore_leader{") and line.endswith(" 1.0") for line in lines)
    return "" if leaders == 1 else f"{leaders} of {replicas} replicas lead"


def main(service, replicas):
    """Looks until all is well, for a minute at most; says what it saw."""
    deadline = time.monotonic() + 60
    while True:
        try:
            wrong = look(service, int(replicas))
        except (OSError, urllib.error.URLError) as error:
            wrong = str(error)
        if not wrong:
            print(f"{replicas} replicas are ready, one leads")
            return 0
        if time.monotonic() > deadline:
            print(wrong)
            return 1
        time.sleep(1)


sys.exit(main(*sys.argv[1:]))
