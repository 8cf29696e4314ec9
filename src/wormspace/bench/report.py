"""A benchmark's results: a table for people, and the raw figures as JSON."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from wormspace.bench.load import Sample


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
