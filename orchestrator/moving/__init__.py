"""What leaves a deployment whole and comes back: backups of everything, and single projects (docs/moving.md)."""
