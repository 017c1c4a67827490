"""How `recognise` finds out what a file is, from its content.

`formats` by its first bytes, `encodings` (where its bytes tell too little, by their `letters`), then `dialects` for
what parts its cells and `headers` for whose columns they are. `unpack` opens packed files, `archives` a .zip.
"""
