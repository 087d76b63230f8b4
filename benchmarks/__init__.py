"""Scripts that measure. The package does not import them; they import the package."""
