"""How `upgrade` works: `adoption` makes old tables ours, `schema` brings ours up to date, `misfits` do not fit them.

`obstacles` says what nobody but its maker can change, so that nothing is begun; `lost`, what somebody has
taken away since. `rights` lets the roles of a shared server use what a migration has made.
"""
