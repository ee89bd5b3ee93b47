"""What operators find again: dead letters, reports and leases."""
