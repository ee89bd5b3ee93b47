"""The HTTP interface. Routes translate between HTTP and the domain; they know no storage."""
