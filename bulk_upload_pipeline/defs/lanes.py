"""Two lanes of runs, so that a flood of small files never holds up a big one, nor big ones the small.

`dagster.yaml` lets three runs work at a time, and of each lane two: whichever lane is flooded, the other one
finds a free place at once.
"""

LANE_TAG = "bulk_upload/lane"
SMALL = "small"
BIG = "big"
