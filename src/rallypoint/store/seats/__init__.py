"""The tcp store at several endpoints: whoever can bind one holds a seat, and a majority of seats says who serves.

``election`` decides (pure), ``seat`` is one endpoint on the network, ``store`` what a node uses.
"""
