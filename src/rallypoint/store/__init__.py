"""The coordination store: five verbs over memory or TCP.

``api`` is the contract. ``state`` knows keys, leases and watches (pure), ``hub`` puts it to work.
``front`` is the user's side of the verbs; ``memory`` carries its messages within the process,
``link`` and ``client`` over TCP, framed by ``wire``. ``server`` answers behind ``door``, which tells
protocols apart on one port. ``tcp`` decides who hosts. Open a store with ``memory.open_memory`` or
``tcp.open_tcp``; serve one for many runs with ``tcp.serve``.
"""
