"""Invoice files into PostgreSQL, every row accounted for.

The tour. First the rooms in which a file is on its way, in the order in which it meets them. Where a room has a folder
of its own, its details are there: nobody needs them to understand the line.

* It is dropped. `inbox`: settled files. `intake`: which of them become batches now; `lanes`: which share a run.
  `archiving` and `taking`: into the archive. `members`: the files in a .zip. `holding`: one worker at a time touches
  a batch.
* What is it? `recognise`, by its content (`recognising/`); `origin` and `corrections` for a file that corrects an
  earlier one.
* `read`: file to chunks of text (`reading/`).
* `parse`: text to typed columns (`parsing/`).
* `validate`: typed chunk to verdict, by the `rules` of the `contract`. `verbatim` keeps the row as it stood.
* `stage`: verdicts to rows that load and findings, in the form of `staged` and `found`. `judging` is all of this for
  one file, side by side (`overlap`) and telling how far it is (`pace`); `terms` says by which profile.
* `load`: staged chunks to the target, exactly once (`loading/`).
* `rejects` keeps the findings; `report` is what the clerk reads and corrects (`reporting/`).
* `splitting` lets several workers judge and load one huge file at once: `part_judging`, `part_loading`, and `helping`
  whoever has begun. `part_ledger` knows who has which part, and `sharing` decides whether it is worth it.
* `line` strings all of it together; `workplace` is what each of its stages works with. `closing` writes the receipt of
  each exit. `checking` is a verdict without a load.
* A correction is read `as_written`, and `parentage` says which batch it corrects. `mending` judges it, with `family`:
  who corrected whom, and `resaved`: what a spreadsheet has written anew. `settling` says what it settles in its
  family, `resolving` which findings.

What everything is said in: `model`, `contract`, `findings`, `profiles` (read by `profile_files`), `tables`,
`exceptions`, `settings`. What PostgreSQL knows of a batch: `ledger`, in the form of `kept`; `counting` is what a
receipt counts, `whereabouts` where many batches stand. Where files are: `places`, of this machine or in a bucket;
`storage` brings them at hand, `objects` makes the requests. `scratch` is for what is needed for a while.

Afterwards: `inspection` looks at every batch by the `evidence`, which `history` and `target` bring. `stale` notes
the days that a change touches, `sales` counts them again. `revert` undoes a load, `again` says which batches a
night takes again, `trace` what made an invoice what it is. `silence` knows whose file is overdue, and `overlooked`
for which nobody comes. `alerts` is the outbox of what somebody has to be told (`alerting/`). `metrics` counts for
Prometheus. `retention` throws away, and `sweeping` what killed processes left; it also finds what only the archive
knows of.

Who shows it: `defs/` to Dagster, `cli` and its `commands/` to people at a terminal, by way of `terminal`; `guard`
decides who may use the UI. `drafting` and `template` write files for a new sender, `markdown` the references of
findings and columns, `sample` invented ones (`sampling/`).

What it stands on: `database`; `upgrade` brings it up to date (`upgrading/`), `patience` is how tables are changed that
others use, `roles` says who may. `local` is what a home needs (`serving/`), and `watch` tells of what runs. `liveness`
tells a run that is worked on from one whose worker is gone, and lets one installation at a time work with a database.
"""
