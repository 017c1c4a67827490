"""Invoice files into PostgreSQL, every row accounted for.

The tour, in the order in which a file meets the rooms:

* Nouns, what travels and what is promised: `model`, `contract` and its `rules`, `profiles` and
  `profile_files`, `findings`,
  `tables`, `exceptions`, `settings`.
* Verbs, one stage of the line each, usable without Dagster: `inbox` (settled files, take, archive),
  `recognise` (what is this file?), `read` (file to chunks of text), `parse` (text to typed columns),
  `validate` (typed chunk to verdict), `stage` (verdicts to Parquet and findings), `load` (staged chunks
  to the target, exactly once), `ledger` (what PostgreSQL knows of batches), `report` (what the clerk
  reads and corrects) with its page, `summary`.
* `inspection` looks at every batch (with `history` and `target`): what is unusual, what does not add up.
* `stale` notes the dates that a change touches, `sales` counts them again; `trace` tells what made an invoice
  what it is; `silence` knows whose file is overdue, `again` which batches a night takes again.
* `line` strings the verbs together; `defs/` shows it to Dagster, `cli` and its `commands/` to people at a
  terminal.
* `upgrade` brings a database up to date: `adoption` makes the tables of the old system ours, `misfits` lists
  what of it does not fit, `patience` is how tables are changed that others use, and `roles` says who may.
* `corrections` lays a corrected file over the batch that it corrects, by the columns of `origin`; `family` knows
  which rows of which batch were corrected, and `mending` strings them together. `judging` is how a file is judged.
* `holding` lets one worker at a time touch a batch; `liveness` tells a run that is worked on from one whose
  worker is gone, which `defs/recovery` picks up.
* `alerts` is the outbox of what somebody has to be told, `messages` puts it into words, `channels` sends it.
* `retention` is what is thrown away and what stays; `metrics` counts for Prometheus.
* `guard` decides who may use Dagster's UI, which `defs/ui` serves.
* `drafting` writes a profile from a new sender's file, `template` an empty file for a profile, and `markdown`
  the references of findings and columns that lie in `reference/`.
* `database` and `local` provide PostgreSQL and, for `bulk-upload up`, the services around it.
"""
