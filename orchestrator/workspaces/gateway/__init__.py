"""The gateway: an X server that nobody in the sandbox can reconfigure, and the authenticated way to its picture."""
