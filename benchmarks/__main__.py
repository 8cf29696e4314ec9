"""`python -m benchmarks`: registers and the applications beside what they are made of."""

from __future__ import annotations

import click

from benchmarks.log_command import log_command
from benchmarks.registers import registers_command
from benchmarks.smr_command import smr_command
from benchmarks.tx_command import tx_command
from benchmarks.variants_command import variants_command


@click.group()
def benchmarks() -> None:
    """Measure on servers of one's own on this machine; each beside a base of the same run."""


for _command in (registers_command, log_command, smr_command, tx_command, variants_command):
    benchmarks.add_command(_command)

if __name__ == "__main__":
    benchmarks(prog_name="python -m benchmarks")
