"""Durable jobs: a table with leases and fences, and what runs them on this machine. Knows no kind of job."""
