"""How `parse` makes values of text.

`cells` knows what counts as blank; `decimals` are amounts in their plain form, `numerals` in any other; `dates`;
`texts`.
"""
