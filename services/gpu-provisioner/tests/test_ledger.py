"""What the process may believe about a pool: a LIST is neither newer than an answer that came after it began, nor a proof."""

import msgspec
import pytest

from gpu_provisioner.cloud.bucket import Verb
from gpu_provisioner.cloud.failure import CloudFailure, FailureClass
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.pools.plan import CloudPool, Hold

REFUSED = CloudFailure(
    failure=FailureClass.BAD_INPUT, code="InvalidParameter", message="no", retry_after=3600.0, permanent=True
)
DOWN = CloudFailure(failure=FailureClass.SERVER, code="", message="no answer", retry_after=5.0)
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


def test_a_node_is_awaited_from_the_end_of_the_operation_that_makes_its_machine() -> None:
    """Not from the shared pool's earlier success, however long the scale-up is refused."""
    ledger = Ledger()
    ledger.listed([pool()], started=1.0)
    assert ledger.awaited("a", "p", 1, 5.0) == 5.0
    assert ledger.awaited("b", "p", 2, 6.0) is None, "AKS has yet to be told"
    assert ledger.awaited("a", "p", 2, 6.0) is None
    grown = msgspec.structs.replace(pool(etag="2"), count=2)
    ledger.show(msgspec.structs.replace(grown, state="Updating"), 1000.0)
    assert ledger.awaited("b", "p", 2, 1001.0) is None, "AKS is at work"
    ledger.show(grown, 1010.0)
    assert ledger.awaited("b", "p", 2, 1011.0) == 1011.0
    assert ledger.awaited("b", "p", 2, 1500.0) == 1011.0
    ledger.asked_anew("b")
    assert ledger.awaited("b", "p", 2, 1600.0) == 1600.0, "a PUT so quick that its work was never seen"


def test_a_back_off_ends_with_the_last_claim_that_caused_it() -> None:
    ledger = Ledger()
    for claims in (["a", "b"], ["b"], ["b", "c"], ["c"]):
        ledger.claimed_by("p", claims)
        if "a" in claims:
            ledger.block("p", REFUSED, 10.0)
        assert ledger.blocked("p", 20.0) == REFUSED
    ledger.claimed_by("p", [])
    ledger.listed([], started=30.0)
    assert ledger.blocked("p", 40.0) is None
    ledger.claimed_by("p", ["d"])
    ledger.block("p", REFUSED, 50.0)
    ledger.claimed_by("p", ["e"])
    assert ledger.blocked("p", 60.0) is None, "also where the moment without a claim was not seen"


def test_pauses_of_a_removal_grow_in_an_outage_and_stay_bounded_where_it_is_refused() -> None:
    ledger = Ledger()
    pauses = []
    for _ in range(6):
        ledger.hold("p", Verb.DELETE, DOWN, 0.0)
        pauses.append(ledger.holds("p", 0.0)[Verb.DELETE].seconds)
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    ledger.hold("p", Verb.DELETE, REFUSED, 0.0)
    assert ledger.holds("p", 0.0)[Verb.DELETE].seconds == 300.0
    assert ledger.holds("p", 400.0) == {Verb.DELETE: Hold(REFUSED, 0.0)}, "remembered until it succeeds"
    assert ledger.succeeded("p", Verb.DELETE)
    assert ledger.holds("p", 0.0) == {}
    ledger.hold("p", Verb.DELETE, DOWN, 0.0)
    ledger.show(pool("Deleting"), 3.0)
    assert ledger.holds("p", 3.0) == {}, "its answer was lost, but AKS is at it"
    ledger.hold("p", Verb.READ, DENIED, 0.0)
    assert ledger.holds("p", 60.0) == {}, "what was not read may not be needed any more"


def test_how_long_aks_has_been_at_work_is_counted_by_state() -> None:
    ledger = Ledger()
    for state, now, since in (("Creating", 1, 1), ("Creating", 9, 1), ("Deleting", 20, 20), ("Succeeded", 30, None)):
        ledger.show(pool(state), float(now))
        assert ledger.working_since("p") == since
