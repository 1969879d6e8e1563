"""Many devices on one host: plan, destinations, run, report."""
