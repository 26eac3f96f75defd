"""The native library's functions as Python sees them: a Protocol over cffi's `lib`, nothing else.

Leans on nothing. Must never name a function that tent.h does not declare (a test holds both equal).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

CData = Any
I32 = int


class Library(Protocol):
    """The functions of tent.h as cffi offers them."""

    tent_version: Callable[[], CData]
    tent_status_name: Callable[[int], CData]
    tent_status_text: Callable[[int], CData]
    tent_last_error: Callable[[], CData]
    tent_now_ns: Callable[[], int]
    tent_engine_open: Callable[[CData, CData], I32]
    tent_engine_close: Callable[[CData], I32]
    tent_engine_step: Callable[[CData, int], I32]
    tent_engine_address: Callable[[CData, CData, int], I32]
    tent_engine_event_fd: Callable[[CData, CData], I32]
    tent_plan_check: Callable[[bytes, int], I32]
    tent_plan_render: Callable[[bytes, int, CData, CData], I32]
    tent_plan_install: Callable[[CData, bytes, int, CData], I32]
    tent_plan_installed: Callable[[CData, CData, CData], I32]
    tent_region_register: Callable[[CData, CData, int, CData, CData], I32]
    tent_region_release: Callable[[CData, int], I32]
    tent_region_location: Callable[[CData, int, CData, int], I32]
    tent_region_about: Callable[[CData, int, CData, CData], I32]
    tent_memory_alloc_with: Callable[[CData, int, CData, CData], I32]
    tent_memory_free: Callable[[CData, CData], I32]
    tent_memory_about: Callable[[CData, CData], I32]
    tent_grant_create: Callable[[CData, CData, CData], I32]
    tent_grant_revoke: Callable[[CData, int], I32]
    tent_segment_export: Callable[[CData, int, CData, CData], I32]
    tent_segment_open: Callable[[CData, bytes, int, CData], I32]
    tent_segment_import: Callable[[CData, bytes, int, int, CData], I32]
    tent_segment_wait: Callable[[CData, int, int], I32]
    tent_segment_refresh: Callable[[CData, int, int], I32]
    tent_segment_close: Callable[[CData, int], I32]
    tent_segment_regions: Callable[[CData, int, CData, int, CData], I32]
    tent_descriptor_print: Callable[[bytes, int, CData, CData], I32]
    tent_batch_open: Callable[[CData, CData, CData], I32]
    tent_batch_submit: Callable[[CData, int, CData, int, int, int, CData], I32]
    tent_batch_submit_columns: Callable[[CData, int, CData, int, CData], I32]
    tent_batch_seal: Callable[[CData, int, int, CData, int], I32]
    tent_batch_poll: Callable[[CData, int], I32]
    tent_batch_wait: Callable[[CData, int, int], I32]
    tent_batch_cancel: Callable[[CData, int], I32]
    tent_batch_close: Callable[[CData, int], I32]
    tent_batch_status: Callable[[CData, int, int, CData, int, CData], I32]
    tent_completions_poll: Callable[[CData, CData, int, CData], I32]
    tent_notice_poll: Callable[[CData, CData, CData, CData], I32]
    tent_events_poll: Callable[[CData, CData, int, CData], I32]
    tent_unfenced_read: Callable[[CData, int, CData, int, CData], I32]
    tent_counters_read: Callable[[CData, int, CData, int, CData], I32]
    tent_explain: Callable[[CData, CData, CData, CData, int, CData], I32]
    tent_transports_find: Callable[[bytes, CData, int, CData], I32]
    tent_transport_options: Callable[[bytes, bytes, CData, int, CData], I32]
    tent_transport_rails: Callable[[bytes, bytes, CData, int, CData], I32]
