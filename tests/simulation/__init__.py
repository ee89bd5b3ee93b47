"""The marketplace's storage code, unmodified, in a simulated world with virtual time and faults."""
