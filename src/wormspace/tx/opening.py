"""Resource managers by URL, for tools."""

from __future__ import annotations

from wormspace.errors import UsageError
from wormspace.tx.managers import ResourceManager
from wormspace.tx.remote import RemoteStore


def open_manager(name: str, url: str) -> ResourceManager:
    """The resource manager at a URL: `postgresql://`, `mysql://` or `kv://HOST:PORT`.

    Raises:
        UsageError: the URL makes no sense, or the driver's package is not installed.
    """
    if not isinstance(url, str):
        raise UsageError(f"a resource manager's URL is text, not {type(url).__name__}")
    scheme = url.partition(":")[0]
    try:
        if scheme in ("postgresql", "postgres"):
            from wormspace.tx.postgres import Postgres

            return Postgres(name, url)
        if scheme in ("mysql", "mariadb"):
            from wormspace.tx.mariadb import MariaDb

            return MariaDb(name, url)
    except ImportError as e:
        extra = "postgres" if scheme.startswith("postgres") else "mysql"
        raise UsageError(f"{e}; install wormspace[{extra}]") from e
    if url.startswith("kv://"):
        return RemoteStore(name, url.removeprefix("kv://"))
    raise UsageError(
        f"{scheme[:20]!r}: a resource manager is postgresql://, mysql:// or kv://HOST:PORT"
    )
