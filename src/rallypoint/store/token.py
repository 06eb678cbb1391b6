"""The run token: node and store prove to each other that they know it, without telling it.

A challenge and a response each way, with a nonce from each side: HMAC-SHA256 (RFC 2104) over who proves (so that a
proof cannot be sent back), the run, the node, its session and both nonces (so that none can be used again).
"""

from __future__ import annotations

import hmac
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.store.messages import Hello

STORE, NODE = "store", "node"


def nonce() -> str:
    """Return 128 bits that nobody has seen."""
    return os.urandom(16).hex()


def proof(token: str, who: str, hello: Hello, theirs: str) -> str:
    """Return what ``who`` (STORE or NODE) says. ``hello`` has the node's nonce, ``theirs`` is the store's."""
    text = json.dumps([who, hello.run, hello.node, hello.session, hello.nonce, theirs])
    return hmac.new(token.encode(), text.encode(), "sha256").hexdigest()


def proves(said: str, token: str, who: str, hello: Hello, theirs: str) -> bool:
    """Say whether ``said`` is that proof, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(said.encode(), proof(token, who, hello, theirs).encode())
