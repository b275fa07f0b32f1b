"""A deployment on one machine: images, control plane, demo."""
