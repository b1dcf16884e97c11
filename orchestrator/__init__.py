"""What decides and wires: the coordinator, the groups, the exchange. The only place with actor handles and refs."""
