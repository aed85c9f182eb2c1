"""Ranking the rows of a key: the best row, the first N rows, the last answer of a window.

Rows are compared by sort codes (`order.py`), kept as whole rows by key (`keyed_rows.py`), and what has become of each
place of the ranking is sent as a changelog (`changes.py`).
"""
