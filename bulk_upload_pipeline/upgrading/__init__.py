"""How `upgrade` moves over: `adoption` makes the tables of the old system ours, `misfits` lists what does not fit."""
