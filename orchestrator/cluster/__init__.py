"""The parts that only a cluster has: the door that makes workspaces' pods, the controller of projects' namespaces."""
