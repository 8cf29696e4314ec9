"""What every layer needs of its process: the event loop, endpoints, files, threads."""
