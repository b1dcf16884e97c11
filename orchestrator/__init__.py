"""What decides and wires.

The coordinator, the groups, the exchange. The only place with actor handles and refs.
"""
