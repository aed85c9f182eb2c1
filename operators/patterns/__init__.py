"""Pattern detection: rows of one key that follow each other in a certain way (`MATCH_RECOGNIZE` of SQL:2016).

Rows wait until the watermark has passed them. All places where a match may begin are then looked at together: each is
a path through the variables of the pattern, and in each step one condition is computed, as a column, for the next rows
of all paths that need it (`search.py`, `rows.py`). Of a key the rows from the first place on are kept whose path is not
yet decided (`kept.py`); they are matched anew when rows have come.
"""
