"""What `bulk-upload` can do, one room a subject; `frame` holds what all share, `streams` output that nobody takes."""
