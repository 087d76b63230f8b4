"""Studies: several methods on several tasks with several seeds, compared."""
