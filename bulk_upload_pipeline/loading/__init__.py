"""How `load` brings a chunk into the target.

`copying` straight, `merging` where rows of it exist; `former` keeps what those were, for `revert`, and
`confirmed` which of them the batch says just so.
"""
