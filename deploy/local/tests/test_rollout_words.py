"""Why an installation hangs, in words: what its pods wait for."""

from kaito_local.run.chart import waits


def test_waiting_and_unschedulable_pods_say_why_and_running_ones_nothing() -> None:
    pulled = {"name": "a", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image x"}}}
    pods = [
        {"metadata": {"name": "one"}, "status": {"containerStatuses": [pulled]}},
        {"metadata": {"name": "two"}, "status": {"containerStatuses": [{"name": "a", "state": {"running": {}}}]}},
        {
            "metadata": {"name": "three"},
            "status": {
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]
            },
        },
    ]
    assert waits(pods) == "  one: ImagePullBackOff: Back-off pulling image x\n  three: 0/1 nodes are available"


def test_without_a_reason_it_says_where_to_look() -> None:
    assert "kubectl logs" in waits([{"metadata": {"name": "one"}}])
