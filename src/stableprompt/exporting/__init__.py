"""What a run found, in the form that another program reads; nothing here needs torch."""
