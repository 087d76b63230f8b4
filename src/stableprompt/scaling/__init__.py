"""The cost model of a run on paper: shapes, machines, work, memory, seconds. Pure arithmetic."""
