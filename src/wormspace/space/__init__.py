"""The address space: segments of write-once registers, allocated in order.  The public API."""
