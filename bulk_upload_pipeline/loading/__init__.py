"""How `load` brings a chunk into the target.

`copying` straight, `merging` where rows of it exist, by the SQL in `statements`; `former` keeps what those were, for
`revert`, `confirmed` which of them the batch says just so, and `yielded` what it says of those that it left to a later
batch.
"""
