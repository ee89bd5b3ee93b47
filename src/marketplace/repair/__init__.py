"""Making the sources agree again: by cron, by call, step by step."""
