"""Many stations on one PostgreSQL: a queue of devices, and who makes which."""
