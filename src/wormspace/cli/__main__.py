"""`python -m wormspace.cli` is the command, wherever the interpreter's scripts are."""

from wormspace.cli import main

main()
