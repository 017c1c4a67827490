"""Invoice files into PostgreSQL, every row accounted for.

The tour. First the rooms in which a file is on its way, in the order in which it meets them; behind each, the
rooms that know its details.

* It is dropped. `inbox`: settled files. `intake`: which of them become batches now; `lanes`: which share a run.
  `archiving` and `taking`: into the archive. `members`: the files in a .zip. `holding`: one worker at a time touches
  a batch.
* What is it? `recognise`, by its content: `formats`, `encodings`, `dialects`, `headers`; `unpack` and `archives`
  for packed files; `origin` and `corrections` for a file that corrects an earlier one.
* `read`: file to chunks of text. `delimited` and `records` for CSV and its kin, `parts` for the largest of them;
  `spreadsheets`, `sheet_blocks`, `sheet_parts`, `sheet_cutter`, `shared_texts`, `whole_sheets`, `sheet_trial`;
  `documents` for JSON; `columnar` for Parquet; `figures` for their floats; `chunking` and `fragments` for all.
* `parse`: text to typed columns. `cells`, `decimals`, `numerals`, `dates`, `texts`.
* `validate`: typed chunk to verdict, by the `rules` of the `contract`. `verbatim` keeps the row as it stood.
* `stage`: verdicts to rows that load and findings, in the form of `staged` and `found`. `judging` is all of this for
  one file, side by side (`overlap`) and telling how far it is (`pace`); `terms` says by which profile.
* `load`: staged chunks to the target, exactly once. `copying`, `merging`; `former` is what rows were before.
* `rejects`, `rejected_sheet`, `report` and its page, `summary`: what the clerk reads and corrects.
* `splitting` lets several workers judge and load one huge file at once; `part_ledger` knows who has which part, and
  `sharing` decides whether it is worth it.
* `line` strings all of it together, and `closing` writes the receipt of each exit; `mending` does so for corrections,
  with `family`: who corrected whom. `checking` is a verdict without a load.

What everything is said in: `model`, `contract`, `findings`, `profiles` (read by `profile_files`), `tables`,
`exceptions`, `settings`. What PostgreSQL knows of a batch: `ledger`. Where files are: `places`, of this machine or in
a bucket; `storage` brings them at hand, `objects` makes the requests.

Afterwards: `inspection` looks at every batch by the `evidence`, which `history` and `target` bring. `stale` notes
the days that a change touches, `sales` counts them again. `revert` undoes a load, `again` says which batches a
night takes again, `trace` what made an invoice what it is. `silence` knows whose file is overdue. `alerts` is the
outbox of what somebody has to be told, `messages` puts it into words, `channels` sends it. `metrics` counts for
Prometheus. `retention` throws away.

Who shows it: `defs/` to Dagster, `cli` and its `commands/` to people at a terminal, by way of `terminal`; `guard`
decides who may use the UI. `drafting` and `template` write files for a new sender, `markdown` the references of
findings and columns, `sample` (with `sample_invoices`, `sample_layouts`, `sample_cells`, `sample_draws`,
`sample_faults`, `goods`) invented ones.

What it stands on: `database`; `upgrade` brings it up to date, `adoption` makes the tables of the old system ours,
`misfits` lists what of them does not fit, `patience` is how tables are changed that others use, `roles` says who may.
`local` is what a home needs: the `embedded` PostgreSQL (a `cluster`), and `services` kept running (`processes`,
`readiness`) with `watch` to tell of it. `liveness` tells a run that is worked on from one whose worker is gone.
"""
