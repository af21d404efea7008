"""What the process may believe about a pool: a LIST is neither newer than an answer that came after it began, nor a proof."""

import pytest

from gpu_provisioner.cloud.failure import CloudFailure, FailureClass
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.pools.plan import CloudPool

DENIED = CloudFailure(failure=FailureClass.UNAUTHORIZED, code="403", message="no", retry_after=60.0)
FULL = CloudFailure(failure=FailureClass.CAPACITY, code="AllocationFailed", message="full", retry_after=180.0)


def pool(
    state: str = "Succeeded", *, name: str = "p", etag: str = "1", failure: CloudFailure | None = None
) -> CloudPool:
    return CloudPool(name=name, state=state, count=1, owned=True, etag=etag, failure=failure)


def test_nothing_is_known_before_the_first_list() -> None:
    ledger = Ledger()
    assert not ledger.known("p")
    ledger.listed([], started=1.0)
    assert ledger.known("p")
    assert ledger.unproven("p"), "a LIST may be a part"


def test_a_list_that_began_before_our_own_change_does_not_undo_it() -> None:
    ledger = Ledger()
    ledger.listed([pool()], started=1.0)
    ledger.show(pool("Deleting"), 3.0)
    assert ledger.listed([pool()], started=2.0) == set()
    assert ledger.pool("p") == pool("Deleting")
    assert ledger.listed([], started=2.5) == set(), "nor does it make the pool vanish"
    assert not ledger.unproven("p")
    assert ledger.listed([pool("Failed", etag="2")], started=4.0) == {"p"}


def test_a_call_without_an_answer_is_in_doubt_until_a_look_that_began_later() -> None:
    ledger = Ledger()
    ledger.listed([], started=1.0)
    ledger.doubt("p", 2.0)
    ledger.listed([], started=1.5)
    assert not ledger.known("p")
    assert ledger.listed([], started=3.0) == {"p"}
    assert ledger.known("p")


def test_a_refused_change_leaves_what_was_known() -> None:
    ledger = Ledger()
    ledger.listed([pool()], started=1.0)
    ledger.doubt("p", 2.0)
    ledger.sure("p")
    assert ledger.known("p")


def test_absence_is_proven_by_an_answer_about_the_very_pool_only() -> None:
    ledger = Ledger()
    ledger.listed([pool()], started=1.0)
    assert ledger.listed([], started=2.0) == {"p"}
    assert ledger.pool("p") is not None
    assert ledger.unproven("p")
    ledger.hide("p", 3.0)
    assert ledger.pool("p") is None
    assert not ledger.unproven("p")
    ledger.doubt("p", 4.0)
    assert ledger.unproven("p"), "after a PUT it may be there again"


def test_only_news_wakes() -> None:
    ledger = Ledger()
    assert ledger.listed([pool(), pool(name="q")], started=1.0) == {"p", "q"}
    assert ledger.listed([pool(), pool(name="q", etag="2")], started=2.0) == {"q"}


@pytest.mark.parametrize("etags", [("1", "2"), ("", "")])
def test_each_failed_operation_is_waited_out_anew(etags: tuple[str, str]) -> None:
    """Also where the API gives no eTag: the operation in between is seen."""
    ledger = Ledger()
    ledger.listed([pool("Failed", etag=etags[0], failure=FULL)], started=1.0)
    assert ledger.blocked("p", 100.0) == FULL
    assert ledger.blocked_for("p", 100.0) == 81.0
    ledger.listed([pool("Failed", etag=etags[0], failure=FULL)], started=150.0)
    assert ledger.blocked("p", 182.0) is None, "the same failure seen again does not start over"
    ledger.show(pool("Updating", etag=""), 183.0)
    ledger.listed([pool("Failed", etag=etags[1], failure=FULL)], started=190.0)
    assert ledger.blocked("p", 200.0) == FULL


def test_claims_learn_why_nothing_can_be_read() -> None:
    ledger = Ledger()
    ledger.unreadable = DENIED
    assert ledger.blocked("p", 1.0) == DENIED
    ledger.listed([], started=2.0)
    assert ledger.blocked("p", 3.0) is None
