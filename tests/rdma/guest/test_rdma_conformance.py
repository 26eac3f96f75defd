"""The rdma transport conforms, over two rails of real libibverbs: with a key per queue pair (memory
windows), and with one per region."""

from __future__ import annotations

import pytest
from soft_plans import plan

from tent.testing import Quirks, TransportConformance
from tent.testing.quirks import Engines


def quirks(**settings: str) -> Quirks:
    return Quirks(
        plan=plan("a", settings=settings),
        slow_plan=plan("a", throttle="16mbit", settings=settings),
        target_plan=plan("b", settings=settings),
        rails=2,
        # One-sided: no target sees a single access, and libibverbs has no checksum of its own.
        integrity=False,
    )


@pytest.mark.usefixtures("rails")
class TestRdma(TransportConformance):
    quirks = quirks()


@pytest.mark.usefixtures("rails")
class TestRdmaWithoutWindows(Engines):
    """What keys decide: bytes of several requests, who may what, and what ends it."""

    quirks = quirks(**{"rdma.windows": "no"})

    test_scatter = TransportConformance.test_scatter_of_thousands_of_requests_in_one_call
    test_direction = TransportConformance.test_the_direction_not_granted_is_denied
    test_release = TransportConformance.test_a_released_region_is_gone_for_peers
    test_amid = TransportConformance.test_a_region_released_in_mid_transfer_is_left_alone
    test_late_region = TransportConformance.test_a_region_registered_later_is_found
    test_revocation = TransportConformance.test_a_revoked_grant_opens_nothing
    test_expiry = TransportConformance.test_an_expired_grant_opens_nothing
    test_cancel = TransportConformance.test_a_cancelled_transfer_leaves_the_buffers_free
