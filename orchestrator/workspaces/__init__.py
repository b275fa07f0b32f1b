"""What a workspace is, and how an engine runs it."""
