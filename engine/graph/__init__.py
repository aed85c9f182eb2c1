"""Jobs as data: logical graph, validation, physical plan. Building and planning run nothing."""
