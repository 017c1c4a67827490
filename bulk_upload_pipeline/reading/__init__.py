"""How `read` takes each format apart.

`delimited` for CSV and its kin: `stretches` are where it can be cut, `records` what is in them, and `parts` for the
largest files. `spreadsheets`: `sheet_blocks` yields the cells of any kind. Of XLSX `sheet_parts` makes small workbooks,
which `sheet_cutter` cuts, minding `shared_texts`, and `beside_values` looks up what their XML tells beside the values;
`whole_sheets` is for the kinds that are read as a whole (`xls`, `xlsb`, `ods`), `sheet_trial` for those that may never
end. `documents` for JSON, `columnar` for Parquet; `figures` for floats in it and in spreadsheets, `number_formats` for
what a cell shows in their place. `chunking` and `fragments` for all.
"""
