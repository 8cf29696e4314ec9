"""A benchmark's results: a table for people, a plot, and the raw figures as JSON."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from wormspace.bench.load import Sample

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")


def table(title: str, samples: list[Sample], base: str) -> Table:
    """Rates, latencies and CPU per loop; the last column is the ratio to loop `base`."""
    out = Table(title=title, title_justify="left", title_style="bold")
    out.add_column("loop")
    for heading in ("window", "ops/s", "p50 ms", "p99 ms", "CPU µs/op", f"x {base}"):
        out.add_column(heading, justify="right")
    rates = {s.window: s.rate for s in samples if s.name == base}
    window = None
    for s in samples:
        if window not in (None, s.window):
            out.add_section()
        window = s.window
        ratio = s.rate / rates[s.window] if rates.get(s.window) else 0.0
        out.add_row(
            s.name,
            str(s.window),
            f"{s.rate:,.0f}",
            f"{s.p50_ms:.2f}",
            f"{s.p99_ms:.2f}",
            f"{s.cpu_us:.1f}",
            "" if s.name == base else f"{ratio:.2f}",
        )
    return out


def plot(path: Path, title: str, samples: list[Sample]) -> None:
    """Latency against throughput, one line per loop, one point per window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

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


def save(path: Path, result: msgspec.Struct) -> None:
    """The raw figures, with what they were measured on."""
    machine: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    document = {"machine": machine, "result": result}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
