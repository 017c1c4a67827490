"""What `report` gives the clerk: the page, by `summary`, and the `rejected_sheet` to correct."""
