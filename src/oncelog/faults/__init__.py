"""A network that misbehaves on command: a proxy that understands Kafka's frames.

What lives here: the proxy (proxy.py, links.py), and what it has to know of frames (frames.py). It stands between any Kafka
client and any Kafka cluster; it knows the wire and nothing of a broker. ``oncelog verify``, the pytest plugin and the
tests use it.
"""

from oncelog.faults.links import Action, ProxyError, Request, Trap
from oncelog.faults.proxy import Proxy

__all__ = ["Action", "Proxy", "ProxyError", "Request", "Trap"]
