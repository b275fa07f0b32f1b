"""Who may do what: projects, memberships, permits, approvals, grants."""
