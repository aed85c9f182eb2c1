"""Over-aggregation: for each row, aggregates over the rows of its key up to it in event time.

Rows wait until the watermark has passed them (`operator.py`), so that the order of arrival does not matter. All slices
of a batch are then computed together, by folds that share their work (`slices.py`, `functions.py`).
"""
