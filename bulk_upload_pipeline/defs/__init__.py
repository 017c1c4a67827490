"""What Dagster sees: the only room that imports it. Assets call `line`; facts come back and are shown here."""
