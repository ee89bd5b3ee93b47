"""The HTTP interface. It translates between HTTP and the domain, and knows no storage."""
