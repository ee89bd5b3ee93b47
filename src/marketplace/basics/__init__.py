"""What any program needs: time as text, JSON, bounded concurrency, log lines."""
