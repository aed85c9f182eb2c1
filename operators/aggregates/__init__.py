"""Aggregate functions over columns of state: count, sum, min, max, mean, first, last, count_distinct, collect.

An aggregate keeps a few state columns a key (`ColumnSpec`), adds a batch to them by scatter at the keys' slots, merges
the columns of several panes into one, and turns them into a result column. `aggregation.Aggregation` runs all
aggregates of an operator together and shares what they have in common: the rows that have a value and meet a condition
are found and counted once an input and condition (`lanes.Lane`), the different values of a column are kept once
(`distinct.DistinctValues`), whatever the number of conditions under which they are counted.

Nulls follow SQL: they are skipped, and an aggregate that saw nothing but nulls is null (a count is 0).

The rules for single types:

- Integers are summed in int64; a sum that does not fit raises and never wraps around. Means are taken in float64.
- Decimals are summed exactly, in 32-bit limbs, up to 38 digits; their mean has 6 digits after the point,
  or their own scale.
- NaN is greater than every number, as in PostgreSQL and DuckDB: `max` is NaN if any value is, `min` only if all are. A
  sum with a NaN is NaN.
- Strings and bytes compare by their (UTF-8) bytes.
- `first`, `last` and `collect` go by event time; among equal times by the order of arrival at the operator.

Over an updating stream rows are also taken back. Counts and sums subtract; a sum of floats keeps NaN and infinities
apart, so that they can leave it again. Distinct values are counted instead of marked. What min, max, first and last
fall back to when their value is taken back, is looked up among all values of the key (`retractable`).
"""
