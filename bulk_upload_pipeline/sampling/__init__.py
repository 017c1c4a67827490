"""How `sample` invents a file.

`goods` says what is sold and to whom, `draws` is the chance in it, `invoices` are the figures; `layouts` writes them
out as `cells`, and `faults` spoils some.
"""
