"""Plots of what was measured."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib import pyplot

from benchmarks.variants import Measured
from wormspace.bench.load import Sample

matplotlib.use("Agg")

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")


def plot(path: Path, title: str, samples: list[Sample]) -> None:
    """Latency against throughput, one line per loop, one point per window."""
    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=120)
    for i, name in enumerate(dict.fromkeys(s.name for s in samples)):
        points = [s for s in samples if s.name == name]
        colour = COLOURS[i % len(COLOURS)]
        rates = [s.rate for s in points]
        p50 = [s.p50_ms for s in points]
        axes.plot(rates, p50, "o-", color=colour, label=f"{name}, p50")
        axes.fill_between(rates, p50, [s.p99_ms for s in points], color=colour, alpha=0.12)
        for s in points:
            axes.annotate(
                str(s.window),
                (s.rate, s.p50_ms),
                textcoords="offset points",
                xytext=(0, 7),
                ha="center",
                fontsize=8,
                color=colour,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per second")
    axes.set_ylabel("latency, ms (line: p50; shade: up to p99)")
    axes.set_title(title, fontsize=11)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def bars(path: Path, title: str, measured: list[Measured]) -> None:
    """Latency beside message delays, a bar for each variant."""
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    for i, m in enumerate(measured):
        axes.bar(i, m.decided_ms, color=COLOURS[i % len(COLOURS)])
        axes.annotate(
            f"{m.variant.delays} delays", (i, m.decided_ms), ha="center", va="bottom", fontsize=8
        )
    axes.set_xticks(range(len(measured)), [m.variant.name for m in measured])
    axes.set_ylabel("to the decision, ms (median)")
    axes.set_title(title, fontsize=11)
    axes.grid(visible=True, axis="y", alpha=0.2)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
