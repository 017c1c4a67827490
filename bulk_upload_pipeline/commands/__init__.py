"""What `bulk-upload` can do, one room a subject; `frame` holds what every command shares."""
