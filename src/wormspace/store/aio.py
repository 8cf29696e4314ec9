"""Writes that the kernel carries out while the event loop goes on: io_submit(2).

A thread that waits for the disk costs more than the disk: two hand-overs of the interpreter per
commit.  The kernel needs no thread for a file that is written past its cache, and tells an
*eventfd* when it is done.  There is no library for it in Python that takes aligned memory and waits
for the disk in the same call; io_uring would do as well, but many containers forbid it.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
import platform
import sys

_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""The numbers of io_setup, io_destroy, io_getevents and io_submit."""

_ONE = ctypes.c_long(1)
_PWRITE = 1
_TELL_EVENTFD = 1


class Unsupported(Exception):
    """The system, or this file system, does not offer it."""


class _Request(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h, on a little-endian machine."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("eventfd", ctypes.c_uint32),
    ]


class _Event(ctypes.Structure):
    """`struct io_event`: `result` is the bytes written, or minus an errno."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    ]


class Aio:
    """Writes of one file, one at a time.

    Args:
        fd: opened with O_DIRECT.
        flags: of pwritev2(2).

    Raises:
        Unsupported: wait in a thread.
    """

    def __init__(self, fd: int, flags: int) -> None:
        numbers = _CALLS.get(platform.machine())
        if sys.platform != "linux" or sys.byteorder != "little" or numbers is None:
            raise Unsupported
        if ctypes.sizeof(ctypes.c_long) != 8:
            raise Unsupported  # a 32-bit program on such a machine has other numbers
        self._setup, self._destroy, self._getevents, self._submit = map(ctypes.c_long, numbers)
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        if self._call(self._setup, _ONE, ctypes.byref(self._context)) != 0:
            raise Unsupported
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC)
        self._request = _Request(
            opcode=_PWRITE, fd=fd, rw_flags=flags, flags=_TELL_EVENTFD, eventfd=self._eventfd
        )
        self._requests = (ctypes.POINTER(_Request) * 1)(ctypes.pointer(self._request))
        self._event = _Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Future[None] | None = None

    async def write(self, buffer: mmap.mmap, size: int, at: int) -> int:
        """Write the first `size` bytes of `buffer`, which nobody may touch or free meanwhile.

        Returns:
            How many were written.

        Raises:
            OSError: what is on disk is not certain.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._detach()
            loop.add_reader(self._eventfd, self._on_event)
            self._loop = loop
        self._start(buffer, size, at)
        self._done = loop.create_future()
        try:
            await self._done
        finally:
            if self._done is not None:  # cancelled; but the kernel still has the memory
                self._collect()
        return self._result()

    def try_out(self, buffer: mmap.mmap, size: int) -> None:
        """Write the first `size` bytes of `buffer` to the beginning of the file, and wait.

        Raises:
            OSError: the kernel does not do this here.
        """
        self._start(buffer, size, 0)
        self._collect()
        self._result()

    def _start(self, buffer: mmap.mmap, size: int, at: int) -> None:
        self._request.address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self._request.size, self._request.offset = size, at
        if self._call(self._submit, self._context, _ONE, self._requests) != 1:
            raise _error(ctypes.get_errno())

    def _result(self) -> int:
        if self._event.result < 0:
            raise _error(-self._event.result)
        return int(self._event.result)

    def _on_event(self) -> None:
        done = self._done
        if done is None:
            return
        try:
            self._collect()
        except OSError as e:
            if not done.done():
                done.set_exception(e)
        if not done.done():
            done.set_result(None)

    def _collect(self) -> None:
        """Take the kernel's answer, as soon as there is one.

        It is there before the eventfd says so; not the other way round.
        """
        self._done = None
        os.eventfd_read(self._eventfd)
        event = ctypes.byref(self._event)
        while self._call(self._getevents, self._context, _ONE, _ONE, event, None) < 1:
            if (number := ctypes.get_errno()) != errno.EINTR:
                raise _error(number)

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._eventfd)

    def close(self) -> None:
        """Give it back to the kernel; nothing may be under way."""
        self._detach()
        self._call(self._destroy, self._context)
        os.close(self._eventfd)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
