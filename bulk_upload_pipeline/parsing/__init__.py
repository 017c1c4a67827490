"""How `parse` makes values of text.

`cells` knows what counts as blank; `decimals` are amounts in their plain form, `numerals` in any other; `dates`;
`texts`. `second_headers` finds a second table among the records.
"""
