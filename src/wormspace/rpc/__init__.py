"""Requests between the processes of an application: sequencers, leaders, resource managers.

Not consensus, and nothing that must not be lost: what must survive goes into registers.  A caller
that got no answer knows nothing about what happened.
"""

from wormspace.rpc.caller import Caller, Failure, NoAnswer, NoService
from wormspace.rpc.patience import Patience
from wormspace.rpc.service import Service

__all__ = ["Caller", "Failure", "NoAnswer", "NoService", "Patience", "Service"]
