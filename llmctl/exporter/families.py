"""The metrics that the exporter adds to those of the slots (runner.metrics); docs/metrics.md has the table."""

from __future__ import annotations

from dataclasses import dataclass

GAUGE, COUNTER = "gauge", "counter"


@dataclass(frozen=True)
class Family:
    """One metric: its name after Prometheus' conventions, what it counts, its labels."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


HOST, SLOT = ("host",), ("host", "port")

HOST_UP = Family("llmctl_host_up", GAUGE, "1 when the host answered this scrape.", HOST)
HOST_ERROR = Family("llmctl_host_error", GAUGE, "1; why a host did not answer, as llmctl's code.", ("host", "code"))
HOST_INFO = Family("llmctl_host_info", GAUGE, "1; the llmctl that a host runs.", ("host", "version"))
HOST_SECONDS = Family("llmctl_host_scrape_seconds", GAUGE, "How long the host took to answer this scrape.", HOST)
MEMORY_FREE = Family("llmctl_host_memory_free_bytes", GAUGE, "Free memory of the machine; a GPU has its own.", HOST)
MEMORY_TOTAL = Family("llmctl_host_memory_bytes", GAUGE, "Memory of the machine.", HOST)
DISK_FREE = Family("llmctl_host_disk_free_bytes", GAUGE, "Free room where llmctl's state lies.", HOST)
DISK_TOTAL = Family("llmctl_host_disk_bytes", GAUGE, "Size of that disk.", HOST)
LOAD = Family("llmctl_host_load1", GAUGE, "Load average of a minute.", HOST)
SLOT_UP = Family("llmctl_slot_up", GAUGE, "1 when the slot's own metrics are on this page.", SLOT)
GATEWAY_UP = Family(
    "llmctl_gateway_up", GAUGE, "1 when the gateway's own metrics are on this page; of a LiteLLM when it serves.", SLOT
)
SLOT_STATE = Family("llmctl_slot_state", GAUGE, "1 for the state that the slot is in.", (*SLOT, "state"))
VERDICT = Family(
    "llmctl_health_verdict", GAUGE, "1 for the last verdict of `llmctl health`; a host's own has no port.",
    (*SLOT, "verdict"),
)  # fmt: skip
CHECKED = Family("llmctl_health_check_timestamp_seconds", GAUGE, "When that was, epoch seconds.", SLOT)
INCIDENTS_OPEN = Family("llmctl_incidents_open", GAUGE, "Incidents that go on.", SLOT)
INCIDENTS_DAY = Family("llmctl_incidents_day", GAUGE, "Incidents that began in the last 24 hours.", SLOT)
EXPORTER_INFO = Family("llmctl_exporter_info", GAUGE, "1; the llmctl that makes this page.", ("version",))
SCRAPED = Family("llmctl_exporter_timestamp_seconds", GAUGE, "When this page was made, epoch seconds.")
SECONDS = Family("llmctl_exporter_scrape_seconds", GAUGE, "How long it took to make it.")
SCRAPES = Family("llmctl_exporter_scrapes_total", COUNTER, "Pages made since the exporter started.")
ERRORS = Family("llmctl_exporter_errors_total", COUNTER, "What could not be asked since it started.", ("what",))

FAMILIES = (
    HOST_UP, HOST_ERROR, HOST_INFO, HOST_SECONDS, MEMORY_FREE, MEMORY_TOTAL, DISK_FREE, DISK_TOTAL, LOAD, SLOT_UP,
    GATEWAY_UP, SLOT_STATE, VERDICT, CHECKED, INCIDENTS_OPEN, INCIDENTS_DAY, EXPORTER_INFO, SCRAPED, SECONDS, SCRAPES,
    ERRORS,
)  # fmt: skip
