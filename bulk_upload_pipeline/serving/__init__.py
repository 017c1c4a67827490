"""What `local` and `watch` keep running for a home.

The `embedded` PostgreSQL is a `cluster` that its users share; `services` are those of Dagster, as `processes`, and
`readiness` is what they say of their own state. Their `logs` are kept short, and the `clock` is watched for them.
"""
