"""The control plane's part on a cluster: the door that makes workspaces' pods, and the controller of projects' namespaces."""
