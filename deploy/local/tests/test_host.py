"""What a machine must have before anything of the full cluster is started."""

import pytest

from kaito_local.host import obstacle


@pytest.mark.parametrize(
    ("platform", "euid", "missing", "apt", "says"),
    [
        ("linux", 0, [], True, None),
        ("linux", 0, ["containerd", "runc"], True, None),
        ("linux", 0, ["containerd", "runc"], False, "containerd, runc"),
        ("linux", 1000, [], True, "needs root"),
        ("darwin", 0, [], False, "needs Linux"),
        ("darwin", 501, ["runc"], False, "make control-plane"),
    ],
)
def test_an_unfit_machine_is_told_what_it_lacks(
    platform: str, euid: int, missing: list[str], apt: bool, says: str | None
) -> None:
    reason = obstacle(platform, euid, missing, apt)
    if says is None:
        assert reason is None
    else:
        assert reason
        assert says in reason
