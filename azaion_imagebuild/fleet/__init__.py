"""Many devices on one machine: the plan, the places where identities go, and doing it."""
