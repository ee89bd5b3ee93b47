"""What operators find again: dead letters, reports, leases and the audit."""
