"""States of replicas compared as a whole."""

from wormspace.smr.engine import Engine
from wormspace.smr.snapshots import Audit


def state_digest(engine: Engine) -> bytes:
    """A hash of the state machine's whole state, at once."""
    audit = Audit(engine)
    try:
        for _ in audit.steps():
            pass
        return audit.digest()
    finally:
        audit.close()
