"""What every layer needs of the process that it runs in: endpoints, the collector, threads."""
