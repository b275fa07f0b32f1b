"""The node agent: the one process with root."""
