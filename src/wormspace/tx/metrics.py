"""A site's metrics for Prometheus.

    from prometheus_client import REGISTRY
    REGISTRY.register(SiteMetrics(worm.site()))

This needs prometheus-client, which `wormspace[cli]` brings.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wormspace.tx.site import Site

COUNTERS = {
    "votes_yes": "Branches here that prepared.",
    "votes_no": "Branches here that could not prepare.",
    "committed": "Transactions of this process that were committed.",
    "aborted": "Transactions of this process that were aborted.",
    "resolved": "Branches that somebody else left prepared, and that this site finished.",
    "left_to_recover": "Branches here that could not vote or act at once.",
    "sessions_expired": "Work begun here from elsewhere, and abandoned.",
    "segments_trimmed": "Vote segments that this site trimmed.",
}
GAUGES = {
    "under_way": "Transactions that this site deals with.",
    "prepared": "Branches that the resource managers here held prepared at the last recovery.",
    "prepared_left_alone": "Branches here of other transaction spaces, for longer than patience.",
    "prepared_longest_seconds": "How long the oldest of them has been seen so.",
}


class SiteMetrics(Collector):
    """A site's metrics, each labelled with the transaction space."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> Iterator[Metric]:
        """Names alone, which registering asks for."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; from any thread."""
        site, space = self._site, [self._site.space]
        for name, about in COUNTERS.items():
            counter = CounterMetricFamily(f"wormspace_tx_{name}", about, labels=["space"])
            counter.add_metric(space, site.metrics[name])
            yield counter
        for name, about in GAUGES.items():
            gauge = GaugeMetricFamily(f"wormspace_tx_{name}", about, labels=["space"])
            gauge.add_metric(space, site.gauges()[name])
            yield gauge
