"""What every layer needs of the process that it runs in: its event loop, endpoints, threads."""
