"""What `report` gives the clerk: the page, by `summary`, the `finding_files`, and the `rejected_sheet` to correct."""
