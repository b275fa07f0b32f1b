"""JupyterHub as the controller."""
